"""`python -m nmt` is `nmt`."""

from nmt.cli.main import main

main()
