"""The guides hold together: links, commands, specs, navigation. `tests/integration/test_guides.py`
runs the commands."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from pipelines.cli import parser
from pipelines.spec import load_spec
from tests.guides import Command, blocks, commands, pages
from tests.support import REPOSITORY

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
PAGES = pages()
COMMANDS = commands()
EXAMPLES = sorted((REPOSITORY / "pipelines" / "examples").glob("*.yaml"))


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and mkdocs make them."""
    found, fenced = set(), False
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        heading = re.match(r"#+ (.*)", line)
        if heading and not fenced:
            text = re.sub(r"[^\w\- ]", "", heading[1].lower())
            found.add(text.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for match in LINK.finditer(text):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name(page)}: {target} leads nowhere"
        assert found.is_relative_to(REPOSITORY), f"{name(page)}: {target} leaves the project"
        if anchor:
            assert anchor in anchors(found), f"{name(page)}: {target}: no such heading"


def test_every_page_is_in_the_navigation():
    document = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())

    def leaves(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        values = node.values() if isinstance(node, dict) else node
        return [leaf for value in values for leaf in leaves(value)]  # type: ignore[union-attr]

    listed = leaves(document["nav"])
    there = {p.relative_to(REPOSITORY / "docs").as_posix() for p in PAGES if "docs" in p.parts}
    assert len(listed) == len(set(listed))
    assert there <= set(listed), "a page that nobody finds"


def test_the_api_page_names_what_exists():
    text = (REPOSITORY / "docs" / "api.md").read_text()
    for module, members in re.findall(
        r"^::: (\S+)\n(?:    options: \{members: \[(.*)\]\})?", text, re.M
    ):
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.origin is not None, module
        tree = ast.parse(Path(spec.origin).read_text())
        assert ast.get_docstring(tree), f"{module} has no docstring"
        defined = {node.name: node for node in tree.body if hasattr(node, "name")}
        for member in filter(None, re.split(r",\s*", members)):
            assert member in defined, f"{module}.{member}"
            assert ast.get_docstring(defined[member]), f"{module}.{member} has no docstring"


@pytest.mark.parametrize(
    "command",
    [c for c in COMMANDS if c.words[0] == "suanli"],
    ids=lambda c: f"{c.where} {c.text[:40]}",
)
def test_commands_parse(command: Command, capsys: pytest.CaptureFixture[str]):
    words = list(command.words[1:])
    if not command.inline:
        try:
            parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{command.where}: {command.text}: {capsys.readouterr().err}")
        return
    # In a sentence, arguments may be left out; verbs and options must exist.
    current = parser()
    for word in words:
        verbs = next(
            (a for a in current._actions if isinstance(a, argparse._SubParsersAction)), None
        )
        if verbs is not None and not word.startswith("-"):
            if word.startswith("("):  # `suanli tier (status | sweep …)`
                return
            assert word in verbs.choices, f"{command.where}: no command {word!r}"
            current = verbs.choices[word]
        elif word.startswith("--"):
            options = [s for a in current._actions for s in a.option_strings]
            assert word.partition("=")[0] in options, f"{command.where}: no option {word}"


@pytest.mark.parametrize(
    "command",
    [c for c in COMMANDS if c.words[0] in ("python", "make")],
    ids=lambda c: f"{c.where} {c.text[:40]}",
)
def test_programs_and_targets_exist(command: Command):
    if command.words[0] == "make":
        makefile = (REPOSITORY / "Makefile").read_text()
        for word in command.words[1:]:
            assert "=" in word or re.search(rf"^{re.escape(word)}:", makefile, re.M), command.text
        return
    if command.words[1] == "-m":
        path = REPOSITORY / (command.words[2].replace(".", "/") + ".py")
    elif command.words[1] == "predict.py":
        path = REPOSITORY / "components" / "publish" / "predict.py"
    else:
        path = REPOSITORY / command.words[1]
    assert path.is_file(), f"{command.where}: {path} is not there"
    source = path.read_text()
    for word in command.words:
        if word.startswith("--"):
            assert f'"{word}"' in source, f"{command.where}: no option {word}"


def spec_blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for line, language, lines in blocks(page):
            text = "\n".join(lines)
            if language == "yaml" and re.search(r"^task:", text, re.M):
                found.append((f"{name(page)}:{line}", text))
    return found


@pytest.mark.parametrize(("where", "text"), spec_blocks(), ids=lambda v: v.partition("\n")[0])
def test_specs_in_guides_are_specs(where: str, text: str, tmp_path: Path):
    (tmp_path / "spec.yaml").write_text(text)
    load_spec(tmp_path / "spec.yaml")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_specs_on_data_the_project_makes(path: Path):
    spec = load_spec(path)
    assert spec.name == path.stem
    for split in ("train", "validation", "test"):
        assert str(spec.document["data"][split]["uri"]).startswith("synthetic://")
    assert f"`{path.name}`" in (REPOSITORY / "docs" / "applications" / "index.md").read_text()


def test_the_two_readmes_keep_step():
    """README.zh.md shows every way to use it that README.md shows."""
    english, chinese = (
        {c.words[1] for c in COMMANDS if c.page == page and c.words[0] == "suanli"}
        for page in ("README.md", "README.zh.md")
    )
    assert english <= chinese
    text = (REPOSITORY / "README.zh.md").read_text()
    for code in ("0", "1", "2", "3", "4"):
        assert f"{code} " in text


def test_troubleshooting_quotes_messages_that_exist():
    """Each message in bold code occurs in the source, between its dots."""
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    _, _, messages = text.partition("## By message")
    source = "\n".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        for folder in ("pipelines", "components")
        for path in (REPOSITORY / folder).rglob("*.py")
    )
    quoted = re.findall(r"\*\*`([^`]+)`", messages)
    assert len(quoted) >= 10
    for message in quoted:
        for part in filter(None, re.split(r"\s*…\s*", message)):
            assert part in source, f"troubleshooting.md: no message has {part!r}"
