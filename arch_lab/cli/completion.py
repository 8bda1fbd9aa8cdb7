"""``arch-lab completion``: a script for the shell that completes verbs, options, studies and files."""

from __future__ import annotations

import contextlib
import importlib
import io
import re

from arch_lab.cli.verbs import VERBS, UsageError, nearest, parser

SHELLS = ("bash", "zsh", "fish")
WITH_STUDIES = ("compare", "plan")
TEXT = """Put one of these lines into the start file of your shell:
  bash   source <(arch-lab completion bash)
  zsh    source <(arch-lab completion zsh)
  fish   arch-lab completion fish | source"""
BASH = """_arch_lab() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=( $(compgen -W "{verbs} --help --version" -- "$current") )
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  case "$current" in
    -*) COMPREPLY=( $(compgen -W "$words" -- "$current") ) ;;
    *) COMPREPLY=( $(compgen -W "$words" -- "$current") $(compgen -f -- "$current") ) ;;
  esac
}}
complete -o filenames -F _arch_lab arch-lab
"""
ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, TEXT)
    p.add_argument("shell", metavar="bash|zsh|fish", help="the shell the script is for")
    options = p.parse_args(argv)
    if options.shell not in SHELLS:
        raise UsageError(
            f"completion: unknown shell {options.shell!r}{nearest(options.shell, SHELLS)} (bash, zsh or fish)"
        )
    words = {name: [*_options(name), *_values(name)] for name in VERBS}
    print(
        _fish(words) if options.shell == "fish" else (ZSH if options.shell == "zsh" else "") + _bash(words),
        end="",
    )
    return 0


def _options(verb: str) -> list[str]:
    """The long options that ``--help`` of a verb names, so that every kind of parser is asked alike."""
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
        importlib.import_module(f"arch_lab.cli.{VERBS[verb].module}").main(verb, ["--help"])
    options = re.findall(r"^  (?:-\w, )?(--[\w.][\w.-]*)", help_text.getvalue(), flags=re.MULTILINE)
    return sorted({*options, "--help"})


def _values(verb: str) -> list[str]:
    """Positional words of a verb: names of studies, kinds, shells."""
    if verb in WITH_STUDIES:
        from arch_lab.study.library import studies

        return sorted(studies())
    return {"list": ["studies", "runs"], "completion": list(SHELLS)}.get(verb, [])


def _bash(words: dict[str, list[str]]) -> str:
    cases = "\n".join(f'    {verb}) words="{" ".join(choices)}" ;;' for verb, choices in words.items())
    return BASH.format(verbs=" ".join(VERBS), cases=cases)


def _fish(words: dict[str, list[str]]) -> str:
    lines = [
        "complete -c arch-lab -n __fish_use_subcommand -l help",
        "complete -c arch-lab -n __fish_use_subcommand -l version",
    ]
    for verb, choices in words.items():
        text = VERBS[verb].help.replace("'", "\\'")
        lines.append(f"complete -c arch-lab -n __fish_use_subcommand -f -a {verb} -d '{text}'")
        for word in choices:
            completion = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c arch-lab -n '__fish_seen_subcommand_from {verb}' {completion}")
    return "\n".join(lines) + "\n"
