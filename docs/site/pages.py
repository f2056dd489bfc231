"""What the site has besides the files of docs/: the README and its like, and the API by rooms."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# Files of the top level, by their names on the site.
TOP = {
    'index.md': 'README.md',
    'zh-CN.md': 'README.zh-CN.md',
    'contributing.md': 'CONTRIBUTING.md',
    'changelog.md': 'CHANGELOG.md',
    'licence.md': 'LICENSE',
}
# Modules whose fields are documented by comments, which only the source shows.
COMMENTED = (
    *('config', 'families.architecture', 'families.published', 'weights.tensors'),
    *('weights.shards', 'runs.run_directory', 'formats.meta.layout', 'formats.meta.params'),
)
OPTIONS = {f'belle_jax.{name}': '\n    options: {show_source: true}' for name in COMMENTED}


def on_config(config: MkDocsConfig) -> None:
    """Names the rooms' pages in the navigation."""
    assert config.nav is not None
    config.nav.append({'API': [{name: f'api/{name}.md'} for name in rooms()]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages."""
    for page, source in TOP.items():
        text = (ROOT / source).read_text('utf-8')
        if not source.endswith('.md'):
            text = f'```text\n{text}```\n'
        files.append(File.generated(config, page, content=text))
    style = Path(__file__).with_suffix('.css').read_text('utf-8')
    files.append(File.generated(config, 'pages.css', content=style))
    for name, modules in rooms().items():
        parts = '\n\n'.join(f'::: {module}{OPTIONS.get(module, "")}' for module in modules)
        files.append(File.generated(config, f'api/{name}.md', content=f'# {name}\n\n{parts}\n'))


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links between the top level and docs/ lead to the site's pages."""
    for page, source in TOP.items():
        markdown = re.sub(rf'\]\((\.\./)?{re.escape(source)}\)', f']({page})', markdown)
    return re.sub(r'(\]\(|src=")docs/', r'\1', markdown)


def rooms() -> dict[str, list[str]]:
    """The package's modules by room: the name of a folder, or the package's for the top level."""
    found: dict[str, list[str]] = {}
    for file in sorted(ROOT.glob('belle_jax/**/*.py')):
        parts = file.relative_to(ROOT).with_suffix('').parts
        if parts[-1] == '__init__':
            parts = parts[:-1]
        folder = file.relative_to(ROOT).parts[1:-1]
        found.setdefault(folder[0] if folder else parts[0], []).append('.'.join(parts))
    return found
