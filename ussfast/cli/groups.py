"""Groups of commands that have a usual one, which need not be named."""

from typing import Any

from typer.core import TyperGroup


class Usual(TyperGroup):
    """`GROUP ...` is `GROUP COMMAND ...` with the usual one: what does not begin with a command belongs to that."""

    usual: str

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.usual, *args]
        return super().parse_args(ctx, args)


def usually(command: str) -> type[Usual]:
    """The class of a group whose usual command is this one."""
    return type("UsualGroup", (Usual,), {"usual": command})
