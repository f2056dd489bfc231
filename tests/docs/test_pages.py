"""The pages: links that lead somewhere, small pictures, a site that builds without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')])


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_each_link_and_picture_of_a_page_leads_somewhere(page):
    text = page.read_text('utf-8')
    targets = re.findall(r'\]\(([^)#]+)[^)]*\)|src="([^"]+)"', text)
    for target in filter(None, (link or picture for link, picture in targets)):
        assert target.startswith('https://') or (page.parent / target).is_file(), target


def test_the_readmes_lead_to_each_page_and_to_each_other():
    for name, other in (('README.md', 'README.zh-CN.md'), ('README.zh-CN.md', 'README.md')):
        text = (ROOT / name).read_text('utf-8')
        pages = {f'docs/{page.name}' for page in (ROOT / 'docs').glob('*.md')}
        named = pages | {other, 'CONTRIBUTING.md', 'LICENSE'}
        assert {target for target in named if target not in text} == set()


def test_pictures_are_small():
    pictures = list((ROOT / 'docs' / 'images').iterdir())
    assert len(pictures) == 2
    assert all(picture.stat().st_size < 150_000 for picture in pictures)


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip('mkdocs')
    pytest.importorskip('mkdocstrings')
    built = subprocess.run(
        [
            *(sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', tmp_path),
            *('--config-file', ROOT / 'docs' / 'site' / 'mkdocs.yml'),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    models = (tmp_path / 'api' / 'models.html').read_text('utf-8')
    assert 'belle_jax.models.Decoder.token_losses' in models
