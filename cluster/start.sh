#!/usr/bin/env bash
# Start a Ray cluster with token authentication, host by host. The package must be installed on
# every host.
#
#   cluster/start.sh token                           on the head, once: create ~/.ray/auth_token
#   cluster/start.sh head ADDRESS [OPTION]...        on the head; options are those of `ray start`
#   cluster/start.sh join HEAD ADDRESS [OPTION]...   on every other host, with the same token file
#   cluster/start.sh stop                            stop what this script started on this host
#
# ADDRESS is the address of this host, HEAD that of the head, HEAD:PORT if it is not port 6379.
set -euo pipefail

fail() { echo "start.sh: $1" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The .venv of the checkout if there is one, else the active environment. Jobs run its python.
if [ -x "$here/.venv/bin/python" ]; then PATH=$here/.venv/bin:$PATH; fi
command -v ray >/dev/null || fail "ray is not installed: pip install '$here', or activate an environment that has it"
missing=$(python - "$here/pyproject.toml" <<'PY'
import re, sys, tomllib
from importlib.metadata import PackageNotFoundError, version

with open(sys.argv[1], "rb") as file:
    needed = tomllib.load(file)["project"]["dependencies"]
missing = []
for requirement in needed:
    name = re.match(r"[\w.-]+", requirement)[0]
    try:
        version(name)
    except PackageNotFoundError:
        missing.append(name)
print(*missing)
PY
)
[ -z "$missing" ] || fail "missing packages: $missing: pip install '$here' for $(command -v python)"

export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
export RAY_USAGE_STATS_ENABLED=0
# Health checks of the head: a host that does not answer for about 8 s is declared dead; with Ray's
# defaults it takes 30 s.
export RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=3
# Time for lost workers to close their connections: all others wait for it, by default 30 s.
export TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S=3

# In the environment of all processes that this script starts, for `stop`. Slurm jobs that share a
# host are told apart.
mark=$here${SLURM_JOB_ID:+ job $SLURM_JOB_ID}
export NMT_RAY_HOST=$mark

free_port() {
  python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# need_port OPTION PORT WORDS...: fail if the port of an option, or its default, is taken.
need_port() {
  local port=$2 word
  for word in "${@:3}"; do
    case $word in "$1"=*) port=${word#*=} ;; esac
  done
  python -c 'import socket, sys; socket.create_server(("", int(sys.argv[1])))' "$port" 2>/dev/null ||
    fail "port $port is taken, perhaps by another Ray on this host: set another one with $1=PORT"
}

# Processes of this user that this script started, and their children.
own_processes() {
  grep -lzxF "NMT_RAY_HOST=$mark" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | grep -vx $$ || true
}

stop_own() {
  local pids pid blocked signal seconds
  pids=$(own_processes)
  [ -n "$pids" ] || { echo "start.sh: nothing to stop: no Ray that was started with $here/cluster/start.sh"; return; }
  for pid in $pids; do
    # slurm.sh blocks TERM (15) in its hosts, which have nothing to save.
    blocked=$(sed -n 's/^SigBlk:\s*//p' "/proc/$pid/status" 2>/dev/null || true)
    if ((0x${blocked:-0} >> 14 & 1)); then signal=KILL; else signal=TERM; fi
    kill -"$signal" "$pid" 2>/dev/null || true
  done
  for seconds in 1 2 3 4 5 6 7 8 9 10; do
    pids=$(own_processes)
    [ -n "$pids" ] || return 0
    [ "$seconds" = 10 ] || sleep 1
  done
  # shellcheck disable=SC2086
  kill -KILL $pids 2>/dev/null || true
}

need_token() {
  [ -s "$RAY_AUTH_TOKEN_PATH" ] || fail "no token in $RAY_AUTH_TOKEN_PATH: create it with \`start.sh token\` on the head and copy it to every host"
  case $(stat -L -c %a "$RAY_AUTH_TOKEN_PATH") in
    600 | 400) ;;
    *) fail "other users can read $RAY_AUTH_TOKEN_PATH: chmod 600 $RAY_AUTH_TOKEN_PATH" ;;
  esac
}

case ${1:-} in
  token)
    [ ! -e "$RAY_AUTH_TOKEN_PATH" ] || fail "$RAY_AUTH_TOKEN_PATH exists already: use it, or remove it"
    umask 077
    mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
    python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
    echo "token written to $RAY_AUTH_TOKEN_PATH: copy it to every host, mode 0600"
    ;;
  head)
    [ $# -ge 2 ] || fail "missing address of this host: start.sh head ADDRESS"
    need_token
    need_port --port 6379 "${@:3}"
    need_port --dashboard-port 8265 "${@:3}"
    # The dashboard and its job server listen on loopback unless an option sets another host. The
    # agent that starts jobs needs a port of its own where another Ray holds the default one.
    exec ray start --head --node-ip-address="$2" --port=6379 --disable-usage-stats \
      --dashboard-agent-listen-port="$(free_port)" "${@:3}"
    ;;
  join)
    [ $# -ge 3 ] || fail "missing addresses of the head and of this host: start.sh join HEAD ADDRESS"
    need_token
    case $2 in *:*) head=$2 ;; *) head=$2:6379 ;; esac
    exec ray start --address="$head" --node-ip-address="$3" --disable-usage-stats \
      --dashboard-agent-listen-port="$(free_port)" "${@:4}"
    ;;
  stop)
    # This process has no such variable unless a job of the cluster runs it.
    export -n NMT_RAY_HOST
    stop_own
    ;;
  *) fail "usage: start.sh token | head | join | stop; see the comment at the top of this script" ;;
esac
