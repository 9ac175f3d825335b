"""How commands are typed: `llmgate NOUN VERB`, a bare noun lists, and a few options are known everywhere.

`noun` and `verb` are the two words that a command file declares itself with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from textwrap import dedent
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from . import manual
from .session import Format, Session
from .suggest import unknown
from .typed import read_values, refused, too_many

if TYPE_CHECKING:
    from . import completion

Function = TypeVar("Function", bound=Callable[..., Any])

EVERYWHERE = "Everywhere"
"""The heading under which help shows the options that every command knows."""


def _kept(field: str) -> Callable[[typer.Context, Any], Any]:
    """Keeps an option's value in the session; said twice, the one nearer to the end counts."""

    def keep(ctx: typer.Context, value: Any) -> Any:
        if value is not None and value is not False:
            ctx.ensure_object(Session).keep(field, value, ctx.command_path)
        return value

    return keep


def _option(*names: str, field: str, metavar: str | None = None, text: str) -> Any:
    return typer.Option(
        *names,
        metavar=metavar,
        help=text,
        callback=_kept(field),
        expose_value=False,
        rich_help_panel=EVERYWHERE,
        show_default=False,
    )


def _everywhere(
    config: Annotated[
        str | None,
        _option("--config", field="config_file", metavar="PATH", text="The llmgate.toml to use."),
    ] = None,
    db: Annotated[
        str | None,
        _option("--db", field="database", metavar="PATH", text="The database to use, a path or sqlite:///path."),
    ] = None,
    output: Annotated[
        str | None,
        _option("--format", field="format", metavar="|".join(Format), text="How data is written [default: table]."),
    ] = None,
    json: Annotated[
        bool,
        _option("--json", field="as_json", text="The same as --format json; errors are JSON as well."),
    ] = False,
    yes: Annotated[
        bool,
        _option("--yes", "-y", field="yes", text="Don't ask; needed where nobody can be asked."),
    ] = False,
) -> None:
    """Only its parameters are used."""


def _parameters(function: Callable[..., Any]) -> list[Any]:
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return list(typer.main.get_command(app).params)


_SHARED = _parameters(_everywhere)
_TAKES_NOTHING = {name for param in _SHARED if param.is_flag for name in param.opts}
_TAKES_A_VALUE = {name for param in _SHARED if not param.is_flag for name in param.opts}


def _with_shared(params: Iterable[Any] | None) -> list[Any]:
    """A command's parameters and those known everywhere, less the ones that it has a meaning of its own for."""
    own = list(params or ())
    taken = {name for param in own for name in param.opts}
    return [*own, *(param for param in _SHARED if taken.isdisjoint(param.opts))]


class _Parsed:
    """What commands and nouns have in common: the help, the reading of values, and how a wrong line is refused."""

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """Whoever types -h is understood; the pages show one way to ask."""
        return super().make_context(*args, help_option_names=["--help", "-h"], **settings)  # type: ignore[misc]

    def get_params(self, ctx: Any) -> list[Any]:
        params = read_values(super().get_params(ctx))  # type: ignore[misc]
        if not ctx.resilient_parsing:
            return params
        from . import completion  # nobody else asks what could be typed

        return completion.attached(params)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(manual.page(self, ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)  # type: ignore[no-any-return, misc]
        except typer.TyperException as error:
            raise refused(error, ctx) from error


class Verb(_Parsed, TyperCommand):
    """One command."""

    bare: tuple[str, ...] = ()
    """Options that may stand without their value."""

    def __init__(self, *args: Any, params: list[Any] | None = None, **settings: Any) -> None:
        super().__init__(*args, params=_with_shared(params), **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, list(self._with_values(args)))
        if rest and not ctx.resilient_parsing:
            raise too_many(rest, ctx)
        return rest

    def _with_values(self, args: list[str]) -> Iterator[str]:
        """A bare option gets an empty value, and so doesn't take the next option for one."""
        end = args.index("--") if "--" in args else len(args)
        for at, word in enumerate(args):
            yield word
            if word in self.bare and at < end and (at + 1 == len(args) or args[at + 1].startswith("-")):
                yield ""


class Noun(_Parsed, TyperGroup):
    """A noun and its verbs. The first verb is what the bare noun does."""

    def __init__(self, *args: Any, params: list[Any] | None = None, **settings: Any) -> None:
        super().__init__(*args, params=_with_shared(params), **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._with_verb(ctx, args))

    def _with_verb(self, ctx: Any, args: list[str]) -> list[str]:
        """`keys --user alice` is short for `keys list --user alice`."""
        at = 0
        while at < len(args) and (args[at] in _TAKES_NOTHING or args[at].split("=")[0] in _TAKES_A_VALUE):
            at += 2 if args[at] in _TAKES_A_VALUE else 1
        if at > len(args):
            return args  # the value of the last option is missing: it isn't the verb
        rest, bare = args[at:], self.list_commands(ctx)[0]
        if not rest and ctx.resilient_parsing:  # a shell asks what could come next: also another verb
            return args
        if rest and rest[0] in ctx.help_option_names:
            return args
        if (
            rest
            and not rest[0].startswith("-")
            and (rest[0] in self.commands or not _takes_a_word(self.commands[bare]))
        ):
            return args
        return [*args[:at], bare, *rest]

    def words(self) -> list[completion.Word]:
        """The verbs, with what each does."""
        from .completion import Word

        return [Word(name, manual.summary(command)) for name, command in self.commands.items()]

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The verbs, and what may stand behind the first of them, which needn't be said."""
        from .completion import fitting

        name, first = next(iter(self.commands.items()))
        bare = first.make_context(name, [], parent=ctx, resilient_parsing=True)
        takes = [param for param in first.get_params(bare) if param.param_type_name == "argument"]
        what = first if incomplete.startswith("-") or not takes else takes[0]
        return [*fitting(self.words(), incomplete), *what.shell_complete(bare, incomplete)]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            raise unknown("command", name, self.list_commands(ctx), ctx.command_path)
        return name, command, args[1:]


def _takes_a_word(command: Any) -> bool:
    """`limits alice` is short for `limits list alice`; where the first verb takes no word, a strange one is a typo."""
    return any(param.param_type_name == "argument" for param in command.params)


def noun(name: str, summary: str) -> typer.Typer:
    """The Typer app of a noun; its first verb is what the bare noun does."""
    app = typer.Typer(name=name, cls=Noun, help=summary, add_completion=False)
    app.callback()(_nothing)
    return app


def _nothing() -> None:
    pass


def verb(app: typer.Typer, name: str, *, examples: str, bare: tuple[str, ...] = ()) -> Callable[[Function], Function]:
    """Declare a command. Its docstring is its help, `examples` one command line per line; the options in `bare` may
    stand without their value, which is then empty.
    """
    known = type("Verb", (Verb,), {"bare": bare}) if bare else Verb
    return app.command(name, cls=known, epilog=dedent(examples).strip())


def alone() -> typer.Typer:
    """The Typer app of a command that has no verbs."""
    return typer.Typer(add_completion=False)
