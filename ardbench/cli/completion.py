"""`ardbench completion`: the script that teaches a shell to complete commands, options, recipes and suites."""

from __future__ import annotations

import rich_click as click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For bash: eval "$(ardbench completion bash)" in ~/.bashrc. For zsh: the same with zsh in ~/.zshrc. For fish:
    ardbench completion fish > ~/.config/fish/completions/ardbench.fish.
    """
    from click.shell_completion import get_completion_class

    from ardbench.cli import ardbench

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells of the choice above"
    click.echo(kind(ardbench, {}, "ardbench", "_ARDBENCH_COMPLETE").source())
