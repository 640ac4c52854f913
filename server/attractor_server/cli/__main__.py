"""Run the command as `python -m attractor_server.cli`."""

from attractor_server.cli.main import main

if __name__ == "__main__":
    main()
