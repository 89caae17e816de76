"""The documentation site: Sphinx over the Markdown here and the package's docstrings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tabulate import tabulate

from mist_avalanche import __version__
from mist_avalanche.cli import COMMANDS, parser_for
from mist_avalanche.strategies.registry import overview

project = "mist_avalanche"
release = version = __version__
author = copyright = "the mist_avalanche authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
suppress_warnings = ["myst.header"]  # a page may begin at any level

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_math_renderer = "mathml"  # no script, no network

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
# Other projects' sites are not looked up, because the build needs no network.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|avalanche|numpy|matplotlib|timm|collections|pathlib|typing|np)\..*"),
    (r"py:.*", r"(Tensor|Module|Figure|NDArray|NCScenario|Path|Any|Self|T|optional|nn\..*)"),
    # types that have no page
    (
        r"py:class",
        r"([\w.]*\.)?(_\w+|AdapterName|Batch|Common|EvaluationPlugin|Items|MISTOptions|Model|Objective"
        r"|PromptModule|Runs|Schedule|Transform|Unpack|View)",
    ),
]

html_theme = "furo"
html_title = "mist_avalanche"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7db7f0", "color-brand-content": "#7db7f0"},
}


class CommandLine(SphinxDirective):
    """Every subcommand of the parser, with its options."""

    def run(self) -> list[nodes.Node]:
        """One section per subcommand."""
        sections = []
        for name in COMMANDS:
            (actions,) = _subcommands(parser_for(name))
            sections += [
                self._section(c, a) for c, a in _commands(actions.choices[name], COMMANDS[name])
            ]
        return sections

    def _section(self, command: argparse.ArgumentParser, about: str) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(command.prog)])
        section["support_smartquotes"] = False  # they make a dash of two hyphens
        section += nodes.title(text=command.prog)
        section += nodes.paragraph(text=f"{about[:1].upper()}{about[1:]}.")
        options = nodes.definition_list()
        for action in command._actions:
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
                options += self._option(command, action)
        section += options
        return section

    def _option(
        self, command: argparse.ArgumentParser, action: argparse.Action
    ) -> nodes.definition_list_item:
        formatter = command._get_formatter()
        name = formatter._format_action_invocation(action)
        text = formatter._expand_help(action).strip() if action.help else ""
        if action.choices and "{" not in name:
            text = f"{text} One of {', '.join(map(str, action.choices))}.".strip()
        if "default" not in text and action.default not in (None, False, [], argparse.SUPPRESS):
            text = f"{text} (default: {action.default})".strip()
        body = nodes.paragraph(text=text)
        term = nodes.term("", "", nodes.literal(text=name))
        return nodes.definition_list_item("", term, nodes.definition("", body))


class StrategyTable(SphinxDirective):
    """The registered strategies, for a page in Markdown."""

    def run(self) -> list[nodes.Node]:
        """A row per strategy."""
        table = tabulate(overview(), headers="keys", tablefmt="github", disable_numparse=True)
        link = r"[\1](https://arxiv.org/abs/\1)"
        return self.parse_text_to_nodes(re.sub(r"arXiv (\d+\.\d+)", link, table))


def _subcommands(command: argparse.ArgumentParser) -> list[Any]:
    return [a for a in command._actions if isinstance(a, argparse._SubParsersAction)]


def _commands(
    command: argparse.ArgumentParser, about: str = ""
) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """The parsers that have no further subcommands, in order, and what they are for."""
    below = _subcommands(command)
    if not below:
        yield command, about
    for action in below:
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, one in action.choices.items():
            yield from _commands(one, helps[name])


def _as_mathml(writer: Any, node: nodes.Element) -> None:
    """A formula as the browser's own MathML."""
    block = isinstance(node, nodes.math_block)
    tree = latex2mathml.tex2mathml(node.astext(), as_block=block)
    writer.body.append(f"<div class=formula>{tree}</div>" if block else tree)
    raise nodes.SkipNode


def _plain_roles(_app: Sphinx, _what: str, _name: str, _of: Any, _options: Any, lines: list[str]):
    """Let a docstring's ``docs/page.md`` lead to the page, and its ``|h|`` be a norm."""
    lines[:] = [re.sub(r"``docs/([\w-]+)\.md``", r":doc:`/\1`", line) for line in lines]
    lines[:] = [re.sub(r"(?<!`)\|(\w)\|", r"\\|\1\\|", line) for line in lines]


def setup(app: Sphinx) -> None:
    """What this site adds to Sphinx."""
    app.add_directive("command-line", CommandLine)
    app.add_directive("strategy-table", StrategyTable)
    app.add_html_math_renderer("mathml", (_as_mathml, None), (_as_mathml, None))
    app.connect("autodoc-process-docstring", _plain_roles)
