"""What becomes of official workflow files, against the editor itself.

Every file is opened in the real page, and the prompt that its Run button would queue is compared
with what the conversion without a page makes of the same file: the templates that ComfyUI installs,
and two packages of newer files where they are installed, whole in the long mode:

    .venv/bin/pip install --no-deps -r requirements/templates.txt
    TEACACHE_LONG=1 python run.py test --only-tests tests/web/test_page_prompts.py
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
from comfy_server import Server, serving
from declared_inputs import Definitions
from page_prompts import package_workflows, page_classes, page_prompts, unknown_classes
from prompt_comparison import compare, has_dates

from teacache.errors import UserError
from teacache.workflows.editor_format import to_graph

LONG = bool(os.environ.get("TEACACHE_LONG"))
AT_MOST = 200
"""Files of one case outside the long mode, evenly chosen by name, and so of every kind: a file
takes half a second."""
MEDIA = tuple(
    f"comfyui_workflow_templates_media_{part}" for part in ("api", "image", "other", "video")
)
"""The templates that ComfyUI 0.3.75 installs. Newer versions install pictures only in these, and
their templates in the first of `EXTRA`."""
EXTRA = ("comfyui_workflow_templates_json", "comfyui_subgraph_blueprints")
CONVERTED = 0.98
"""The least share of the files with known node classes that must convert."""

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(comfy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the nodes that call paid services, which many templates use."""
    with serving(comfy_dir, tmp_path_factory.mktemp("comfyui"), api_nodes=True) as running:
        yield running


@pytest.fixture(scope="module")
def definitions(server: Server) -> Definitions:
    with urlopen(f"{server.url}/object_info") as answer:
        return json.load(answer)


@pytest.mark.parametrize("packages", [MEDIA, *((name,) for name in EXTRA)], ids=lambda p: p[0])
def test_files_become_the_prompts_that_the_page_queues(
    packages: tuple[str, ...],
    browser: Browser,
    server: Server,
    definitions: Definitions,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [path for package in packages for path in package_workflows(package)]
    if not files:
        pytest.skip(f"no workflows of {packages[0]} here: see requirements/templates.txt")
    if not LONG:
        files = files[:: ceil(len(files) / AT_MOST)]
    classes = page_classes(browser, server, definitions)
    known = [path for path in files if not unknown_classes(path, classes)]
    counts, failed = Counter(files=len(files), known=len(known)), []
    for page in page_prompts(browser, server, definitions, known):
        assert page.prompt is not None, f"{page.path.name}: the page fails: {page.error}"
        try:
            ours = to_graph(page.graph, definitions, page.path.name)
        except UserError as error:
            failed.append(str(error))
            continue
        counts["converted"] += 1
        ours = json.loads(json.dumps(ours))
        compared = compare(page.prompt, ours, definitions, has_dates(page.graph))
        counts["differing"] += bool(compared.lines)
        counts["misplaced"] += bool(compared.misplaced)
        failed += [f"{page.path.name}: {line}" for line in compared.lines]
    with capsys.disabled():
        print(
            f"\n{packages[0]}: {counts['files']} files, {counts['known']} with known classes, "
            f"{counts['converted']} converted, {counts['differing']} differing, "
            f"{counts['misplaced']} with values that the page puts at the wrong widgets"
        )
        print(*failed, sep="\n")
    assert counts["known"]
    assert counts["converted"] >= CONVERTED * counts["known"]
    assert counts["differing"] == 0
