"""`python -m unbroken` is `unbroken`."""

from unbroken.cli.main import main

if __name__ == "__main__":
    main()
