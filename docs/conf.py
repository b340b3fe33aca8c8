"""Configuration of the site (Sphinx). `make docs` builds it into build/site; warnings are errors.

Pages that follow from code or rows are written at build by `pages.py`, so none of them can be out of date.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pages  # noqa: E402
from astroid.exceptions import AstroidImportError  # noqa: E402
from astroid.manager import AstroidManager  # noqa: E402

from scripts import archive_rows  # noqa: E402

project = "miclab"
author = "The miclab developers"
release = version = pages.version()

extensions = ["myst_nb", "autoapi.extension", "sphinx.ext.napoleon"]
# Commands stand in tables and titles too: `--explain` must not become a dash.
smartquotes = False
html_theme = "furo"
html_title = "miclab"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["tables.js"]
html_copy_source = False
# Summaries of search results would have to be fetched, which a page read from disk cannot do.
html_show_search_summary = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}
# The site is read from disk: it names no other host for what it shows.
html_baseurl = ""

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
# `ref.python`: the names of axes in shapes, such as "batch head", are no references.
suppress_warnings = ["autoapi.python_import_resolution", "ref.python"]

# Notebooks are executed when their text has changed since the last build of this folder.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parent / "build" / "notebooks")
nb_execution_timeout = 600
# Notebooks share a folder, so that a run of one is found by the next.
os.environ["MICLAB_NOTEBOOK_FOLDER"] = tempfile.mkdtemp()
nb_execution_raise_on_error = True
nb_merge_streams = True

# The API pages are made from the text of the modules, whichever there are: nothing of miclab is imported for them.
autoapi_dirs = [str(HERE.parent / "miclab")]
autoapi_root = "reference/api"
autoapi_options = ["members", "show-module-summary"]
autoapi_member_order = "bysource"
autoapi_python_class_content = "class"
autoapi_add_toctree_entry = False
autoapi_keep_files = True
autoapi_ignore = ["*/data/files/*", "*/mllm/files/*"]
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Docstrings write code between single backticks.
default_role = "code"


_FIELD_TEXTS: dict[str, list[str]] = {}


def _as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Brings a docstring into the markup that the API pages are written in.

    napoleon would take what stands before the first colon of a field's text for its type, so such a text is set aside.
    """
    lines[:] = pages.docstring_lines(lines)
    if what in ("attribute", "data", "property"):
        _FIELD_TEXTS[name] = list(lines)
        lines[:] = ["set aside"]


def _field_texts_back(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Puts the text of a field back after napoleon."""
    lines[:] = _FIELD_TEXTS.pop(name, lines)


def _write_pages(app: Any, config: Any) -> None:
    """Writes the generated pages before Sphinx looks for pages.

    autoapi writes the API pages again only when a module has changed. Where they were deleted, or are older than the
    code that writes them, the saved state of the last build goes too, so that they are made anew.
    """
    pages.write(HERE)
    made, code = HERE / autoapi_root / "miclab" / "index.rst", [HERE / "conf.py", HERE / "reference.py"]
    if not made.exists() or made.stat().st_mtime < max(path.stat().st_mtime for path in code):
        shutil.rmtree(HERE / autoapi_root, ignore_errors=True)
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)


def _without_inference_of_others() -> None:
    """Keeps the reader of the API pages within miclab: to follow imports into torch took most of a build's time."""
    find = AstroidManager.ast_from_module_name

    def found(self: AstroidManager, modname: str | None, *arguments: Any, **named: Any) -> Any:
        if modname and modname.partition(".")[0] not in {"miclab", *sys.stdlib_module_names}:
            raise AstroidImportError(f"{modname} is not read for the API pages", modname=modname)
        return find(self, modname, *arguments, **named)

    AstroidManager.ast_from_module_name = found  # type: ignore[method-assign]


def _short_navigation(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Shows two levels beside a page; the API's own pages show their rooms. The whole tree made every page slow."""
    tree = context.get("toctree")
    if tree is not None:
        context["toctree"] = lambda **options: tree(**{**options, "maxdepth": 2})


def _rows_for_download(app: Any, exception: Exception | None) -> None:
    """Puts the archive of rows beside the pages."""
    if exception is None and app.builder.format == "html":
        archive_rows.write(Path(app.outdir) / "miclab-rows.zip", archive_rows.content())


def setup(app: Any) -> None:
    """Connects the functions above."""
    _without_inference_of_others()
    app.connect("build-finished", _rows_for_download)
    # Before the theme, which draws the navigation.
    app.connect("html-page-context", _short_navigation, priority=100)
    app.connect("config-inited", _write_pages, priority=10)
    # Before napoleon, which reads `Arguments:` and `Raises:`.
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=100)
    app.connect("autodoc-process-docstring", _field_texts_back, priority=900)
