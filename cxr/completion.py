"""Shell completion: what `cxr completion SHELL` prints. `shtab` makes the script; here is what it cannot know.

A parser's argument says what stands there with one of the constants below, as in `argument.complete = YAML`: for
each shell, the function (for tcsh, the pattern) that completes it. Choices and options need nothing said.
"""

from __future__ import annotations

import argparse
from typing import Literal, get_args, get_origin

SHELLS = ("bash", "zsh", "tcsh")

# tcsh, which has no functions, gets the parameters' names when they are known: see `script`.
FILE = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
FOLDER = {"bash": "_shtab_compgen_dirs", "zsh": "_files -/", "tcsh": "d"}
YAML = {"bash": "_cxr_glob_yaml", "zsh": "_files -g '*.(yaml|yml)'", "tcsh": "f:*.{yaml,yml}"}
KEY = {"bash": "_cxr_key", "zsh": "_cxr_key", "tcsh": "(@KEYS@)"}
SETTING = {"bash": "_cxr_setting", "zsh": "_cxr_setting", "tcsh": "(@SETTINGS@)/"}  # "/": no space after "="

# What a key's value may be stands in a `case`, which @VALUES@ fills: `optimizer) values='adam sgd' ;;`.
_PREAMBLE = {
    "bash": """\
_cxr_keys='@KEYS@'

_cxr_glob_yaml() {
  compgen -f -X '!*.yaml' -- "$1"
  compgen -f -X '!*.yml' -- "$1"
  compgen -d -- "$1"
}

_cxr_key() {
  compgen -W "$_cxr_keys" -- "$1"
}

# KEY=VALUE: bash makes three words of it, so that the key is one or two words back.
_cxr_setting() {
  local word="${COMP_WORDS[COMP_CWORD]}" key="" values=""
  if [[ $word == "=" ]]; then
    key="${COMP_WORDS[COMP_CWORD-1]}" word=""
  elif [[ ${COMP_WORDS[COMP_CWORD-1]} == "=" ]]; then
    key="${COMP_WORDS[COMP_CWORD-2]}"
  fi
  case "$key" in
    "")
      case "$word" in
        -*) compgen -W "${current_option_strings[*]}" -- "$word" ;;
        *) compgen -S = -W "$_cxr_keys" -- "$word" ;;
      esac
      return ;;
    data|weights) compgen -f -- "$word" ;;
    @VALUES@
  esac
  compgen -W "$values" -- "$word"
}

# What a completion looks like: no space after "KEY=", a slash after folders.
_cxr() {
  _shtab_cxr
  if [[ ${COMP_WORDS[COMP_CWORD]} == "=" || ${COMP_WORDS[COMP_CWORD-1]} == "=" ]]; then
    compopt -o filenames 2>/dev/null
  elif [[ ${COMPREPLY[0]-} == *= ]]; then
    compopt -o nospace 2>/dev/null
  fi
  return 0
}
""",
    "zsh": """\
_cxr_keys=(@KEYS@)

_cxr_key() {
  compadd -a _cxr_keys
}

_cxr_setting() {
  local options=_shtab_cxr_${words[1]}_options values=''
  if [[ $PREFIX == -* ]]; then  # the next option: those of the command, less this one
    _arguments -s ${(@P)options:#*_cxr_setting*}
    return
  fi
  if ! compset -P '*='; then
    compadd -q -S = -a _cxr_keys
    return
  fi
  case ${${IPREFIX%=}##*=} in
    data|weights) _files; return ;;
    @VALUES@
  esac
  compadd -- ${=values}
}
""",
    "tcsh": "",
}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of the command `cxr`, whose parser is `parser`, for one of `SHELLS`."""
    import shtab

    from cxr.params import StudyParams

    keys = sorted(StudyParams.model_fields)
    filled = {
        "@KEYS@": " ".join(keys),
        "@SETTINGS@": " ".join(f"{key}=" for key in keys),
        "@VALUES@": "\n    ".join(f"{key}) values='{' '.join(words)}' ;;" for key, words in _values().items()),
    }
    text = shtab.complete(parser, shell, preamble=_PREAMBLE[shell])
    for mark, value in filled.items():
        text = text.replace(mark, value)
    if shell == "bash":
        text = text.replace("complete -o bashdefault -F _shtab_cxr cxr", "complete -o bashdefault -F _cxr cxr")
    if shell == "zsh":  # --set takes every word up to the next option, and KEY ... every word
        text = text.replace(":KEY=VALUE:_cxr_setting", ":*-*:KEY=VALUE:_cxr_setting")
        text = text.replace('"(*)::', '"*:').replace('"(*):', '"*:')
    return text


def _values() -> dict[str, list[str]]:
    """The words that a parameter's value may be, for those with a choice."""
    from cxr.params import StudyParams

    words = {}
    for key, field in StudyParams.model_fields.items():
        if get_origin(field.annotation) is Literal:
            words[key] = list(get_args(field.annotation))
        elif field.annotation is bool:
            words[key] = ["true", "false"]
    return words
