"""What the editor is given beside code: translations, help pages, templates, replacements."""

from __future__ import annotations

import json
import re
from importlib import import_module
from types import SimpleNamespace

import pytest
from paths import ROOT
from PIL import Image

LANGUAGES = ("en", "zh", "ja")
TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def definitions(pack):
    """What the server tells the editor of each node of the pack."""
    import nodes

    ours = {
        name: node
        for name, node in nodes.NODE_CLASS_MAPPINGS.items()
        if node.__module__.startswith(f"{pack.__name__}.nodes")
    }
    assert "ApplyTeaCache" in ours and "TeaCacheCompareImages" in ours
    with_other_packs = import_module(f"{pack.__name__}.nodes.apply_wan_video").ApplyTeaCacheWanVideo
    ours["ApplyTeaCacheWanVideo"] = with_other_packs
    return {name: node.GET_NODE_INFO_V1() for name, node in ours.items()}


def locale(language, name):
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text())


def paths(tree, prefix=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))
        else:
            yield (*prefix, key)


def inputs_of(definition):
    return definition["input"].get("required", {}) | definition["input"].get("optional", {})


def test_english_says_what_the_nodes_say(definitions):
    said = {
        name: {
            "display_name": definition["display_name"],
            "description": definition["description"],
            "inputs": {
                key: {"name": key, "tooltip": options[1]["tooltip"]}
                for key, options in inputs_of(definition).items()
            },
            "outputs": {
                str(index): {"name": output, "tooltip": definition["output_tooltips"][index]}
                for index, output in enumerate(definition["output_name"])
            },
        }
        for name, definition in definitions.items()
    }
    assert locale("en", "nodeDefs") == said


@pytest.mark.parametrize("name", ["nodeDefs", "settings", "main"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_key(language, name):
    assert sorted(paths(locale(language, name))) == sorted(paths(locale("en", name)))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_blanks_of_a_phrase_are_the_same(language):
    english, translated = (locale(known, "main")["teacache"] for known in ("en", language))
    for key, phrase in english.items():
        blanks = re.findall(r"{\w+}", phrase)
        assert sorted(re.findall(r"{\w+}", translated[key])) == sorted(blanks), key


def test_settings_are_translated():
    script = (ROOT / "web" / "teacache.js").read_text()
    ids = re.findall(r'"(TeaCache\.(?:ShowStrip|DefaultThreshold)\w*)"', script)
    assert {known.replace(".", "_") for known in ids} == set(locale("en", "settings"))
    names = re.findall(r'\b(?:name|tooltip): "(.+)",', script.split("settings: [")[1])
    said = locale("en", "settings").values()
    assert sorted(names) == sorted(text for setting in said for text in setting.values())


def test_every_phrase_is_used_and_every_reason_has_one():
    from teacache.report import CHANGES, Reason

    script = "".join(path.read_text() for path in (ROOT / "web").glob("*.js"))
    phrases = set(locale("en", "main")["teacache"])
    reasons = {reason.translation_key for reason in Reason}
    assert {phrase for phrase in phrases if phrase.startswith("reason ")} == reasons
    changes = {f"change {words}" for _, words in CHANGES}
    assert {phrase for phrase in phrases if phrase.startswith("change ")} == changes
    said = {phrase for phrase in phrases if phrase.startswith("said ")}
    english = locale("en", "main")["teacache"]
    assert all(english[phrase] == phrase.removeprefix("said ") for phrase in said)
    assert set(re.findall(r"texts\.(\w+)", script)) == phrases - reasons - changes - said


def test_every_node_has_its_help(definitions):
    pages = ROOT / "web" / "docs"
    for name, definition in definitions.items():
        title = pages.joinpath(f"{name}.md").read_text().splitlines()[0]
        assert title == f"# {definition['display_name']}"
        for language in ("zh", "ja"):
            title = pages.joinpath(name, f"{language}.md").read_text().splitlines()[0]
            assert title == f"# {locale(language, 'nodeDefs')[name]['display_name']}"
    assert {path.stem for path in pages.iterdir()} == set(definitions)


def test_scripts_import_only_the_two_public_ones():
    for path in (ROOT / "web").glob("**/*.js"):
        for source in re.findall(r'^import .* from "(.+)";$', path.read_text(), re.MULTILINE):
            public = source in ("../../scripts/app.js", "../../scripts/api.js")
            assert public or (path.parent / source).is_file(), f"{path.name}: {source}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_its_note_its_picture_and_its_twin(name):
    graph = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    notes = [node for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1
    for node in graph["nodes"]:
        for model in node["properties"].get("models", []):
            assert model["name"] in node["widgets_values"]
            assert f"`models/{model['directory']}`: [{model['name']}]" in json.dumps(notes)
    assert (ROOT / "workflows" / f"{name}.jpg").stat().st_size < 100_000
    twin = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    drawn = {str(node["id"]): node["type"] for node in graph["nodes"]}
    assert {key: node["class_type"] for key, node in twin.items()}.items() <= drawn.items()


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_nodes_of_a_template_name_their_pack(name, definitions):
    graph = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    ours = re.search(r'^name = "(.+)"$', project, re.MULTILINE)[1]
    for node in graph["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        pack = ours if node["type"] in definitions else "comfy-core"
        assert node["properties"]["cnr_id"] == pack
        assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"]["ver"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_wire_of_a_template_runs_back(name):
    graph = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    nodes = {node["id"]: node for node in graph["nodes"]}
    for _, source, _, target, *_ in graph["links"]:
        right_edge = nodes[source]["pos"][0] + nodes[source]["size"][0]
        assert right_edge < nodes[target]["pos"][0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_thumbnail_has_nothing_below_the_pages_badge(name):
    """The editor writes over the upper left corner of the square that it shows."""
    picture = Image.open(ROOT / "workflows" / f"{name}.jpg").convert("L")
    assert picture.size == (512, 512)
    low, high = picture.crop((0, 0, 512, 80)).getextrema()
    assert high - low < 16


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_among_the_old_ones(name):
    old = {path.stem for path in (ROOT / "tests" / "data" / "workflows_old").glob("*/*.json")}
    assert name in old, "store each released version of a template in tests/workflows_old"


async def test_the_other_packs_node_can_be_replaced(pack, definitions, monkeypatch):
    schema = import_module(f"{pack.__name__}.nodes.schema")
    await schema.offer_replacements()  # as this version has it

    offered = []

    class NodeReplacement:
        async def register(self, replacement):
            offered.append(replacement)

    io = SimpleNamespace(NodeReplace=lambda **fields: SimpleNamespace(**fields))
    api = SimpleNamespace(node_replacement=NodeReplacement())
    monkeypatch.setattr(schema, "io", io)
    monkeypatch.setattr(schema, "ComfyAPI", lambda: api)
    await schema.offer_replacements()
    (replacement,) = offered
    assert (replacement.old_node_id, replacement.new_node_id) == ("TeaCache", "ApplyTeaCache")
    filled = {entry["new_id"] for entry in replacement.input_mapping}
    values = {e["new_id"]: e.get("set_value") for e in replacement.input_mapping}
    assert values["mode"] == "faithful"
    assert filled == set(inputs_of(definitions["ApplyTeaCache"]))


def test_search_aliases_where_the_version_has_them(pack, monkeypatch):
    from dataclasses import dataclass

    schema = import_module(f"{pack.__name__}.nodes.schema")
    assert schema.schema(search_aliases=["x"], node_id="A").node_id == "A"  # as this version does

    @dataclass
    class Schema:
        node_id: str
        search_aliases: list[str]

    monkeypatch.setattr(schema, "io", SimpleNamespace(Schema=Schema))
    assert schema.schema(search_aliases=["x"], node_id="A").search_aliases == ["x"]
