#!/usr/bin/env bash
# Start a Ray cluster by hand, host by host. Needs this project's packages on every host.
#
#   cluster/start.sh token                           once, on the head: makes ~/.ray/auth_token
#   cluster/start.sh head ADDRESS [OPTION]...        on the head; options are those of `ray start`
#   cluster/start.sh join HEAD ADDRESS [OPTION]...   on every other host, with the same token file
#   cluster/start.sh stop                            ends every Ray on this host
#
# ADDRESS is this host's own address, HEAD that of the head. No token, no start.
set -euo pipefail

fail() { echo "start.sh: $1" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The checkout's environment where it has one, else the one that is active. Jobs run its python.
if [ -x "$here/.venv/bin/python" ]; then PATH=$here/.venv/bin:$PATH; fi
command -v ray >/dev/null || fail "no ray here: pip install '$here', or make an environment that has it active"
missing=$(python - <<'PY'
from importlib.util import find_spec
needed = "torch ray pyarrow tokenizers sacrebleu safetensors pydantic yaml click tqdm zstandard tensorboard numpy"
print(*(name for name in needed.split() if find_spec(name) is None))
PY
)
[ -z "$missing" ] || fail "jobs need $missing: pip install '$here' in $(command -v python)"

export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
export RAY_USAGE_STATS_ENABLED=0
# The head asks each host every second whether it lives, and gives one up that is silent for about
# 8 s; Ray's own settings take 30 s. Read by the head alone.
export RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=3
# Lost workers get 3 s to close their connections, not 30, for which all others would wait.
export TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S=3

need_token() {
  [ -s "$RAY_AUTH_TOKEN_PATH" ] || fail "no token in $RAY_AUTH_TOKEN_PATH: \`start.sh token\` makes one on the head; copy it to every host"
  case $(stat -L -c %a "$RAY_AUTH_TOKEN_PATH") in
    600 | 400) ;;
    *) fail "others can read $RAY_AUTH_TOKEN_PATH: chmod 600 $RAY_AUTH_TOKEN_PATH" ;;
  esac
}

case ${1:-} in
  token)
    [ ! -e "$RAY_AUTH_TOKEN_PATH" ] || fail "$RAY_AUTH_TOKEN_PATH is there already: use it, or remove it"
    umask 077
    mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
    python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
    echo "token written to $RAY_AUTH_TOKEN_PATH: copy it to every host, mode 0600"
    ;;
  head)
    [ $# -ge 2 ] || fail "the address of this host is missing: start.sh head ADDRESS"
    need_token
    # The dashboard and the jobs it takes listen on loopback unless an option says otherwise.
    exec ray start --head --node-ip-address="$2" --port=6379 --disable-usage-stats "${@:3}"
    ;;
  join)
    [ $# -ge 3 ] || fail "two addresses are needed, the head's and this host's: start.sh join HEAD ADDRESS"
    need_token
    exec ray start --address="${2%:6379}:6379" --node-ip-address="$3" --disable-usage-stats "${@:4}"
    ;;
  stop) exec ray stop ;;
  *) fail "say token, head, join or stop; the head of this file tells more" ;;
esac
