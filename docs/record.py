"""Runs the commands of the README for real and draws what they printed: writes docs/terminal.svg.

python docs/record.py
"""

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

UNBROKEN = [sys.executable, "-m", "unbroken"]
PORT = "8080"
QUESTIONS = ("What is streaming?", "Tell me a joke about programmers.")


def main() -> None:
    """Serves, asks, and draws."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    server = subprocess.Popen(
        [*UNBROKEN, "serve", "--port", PORT],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "UNBROKEN_LOG_FILE": os.devnull},
    )
    try:
        show_command(console, "unbroken serve &")
        assert server.stderr is not None
        for line in server.stderr:
            console.print(Text(line.rstrip()))
            if line.startswith("Try it"):
                break
        for question in QUESTIONS:
            console.print()
            show_command(console, f'unbroken chat "{question}"')
            answer = subprocess.run([*UNBROKEN, "chat", question], capture_output=True, text=True, check=True)
            console.print(Text(answer.stdout.rstrip()))
        console.print()
        body = '{"model": "unbroken-demo", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
        curl = ["curl", "-sN", f"http://127.0.0.1:{PORT}/v1/chat/completions", "-H", "content-type: application/json"]
        show_command(console, f"{' '.join(curl)} \\\n       -d '{body}' | cut -c1-96")
        stream = subprocess.run([*curl, "-d", body], capture_output=True, text=True, check=True).stdout
        for line in filter(None, stream.splitlines()):
            console.print(Text(line[:96], style="dim"))
    finally:
        server.terminate()
        server.wait()
    console.save_svg(str(Path(__file__).with_name("terminal.svg")), title="Unbroken")


def show_command(console: Console, command: str) -> None:
    """Prints a command as a shell shows it."""
    console.print(Text("$ ", style="bold green") + Text(command, style="bold"))


if __name__ == "__main__":
    main()
