"""Where a Hugging Face directory is, and the small files in it."""

import re
import shutil
from pathlib import Path

SETTINGS_FILES = ('config.json', 'generation_config.json', 'README.md')
HUB_FILES = ('*.json', '*.txt', '*.model', '*.jinja', '*.md', 'LICENSE*', 'NOTICE*')
LICENCE_FILES = ('LICENSE', 'LICENSE.txt', 'LICENSE.md', 'NOTICE', 'USE_POLICY.md')


def resolve(name: str | Path) -> Path:
    """A local directory from a path or a hub name such as BelleGroup/BELLE-7B-2M.

    Args:
        name: A directory, or a model's name on the hub, which is downloaded to the hub's cache: its
            configuration, tokenizer and weights (safetensors where it has them), no code.
    Raises:
        ValueError: there is no such directory, and no such name on the hub or no way to it.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', str(name)):
        raise ValueError(f'{name} is neither a directory here nor a hub name such as OWNER/MODEL.')
    import huggingface_hub

    try:
        files = huggingface_hub.HfApi().list_repo_files(str(name))
        safe = any(f.endswith('.safetensors') for f in files)
        weights = ['*.safetensors'] if safe else ['pytorch_model*.bin']
        return Path(
            huggingface_hub.snapshot_download(str(name), allow_patterns=[*HUB_FILES, *weights])
        )
    except (OSError, ValueError) as error:  # what the hub's client raises are kinds of these
        try:
            return Path(huggingface_hub.snapshot_download(str(name), local_files_only=True))
        except (OSError, ValueError):
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise ValueError(
                f"{name} is not a directory here, is not in the hub's cache, and the hub did not "
                f'give it ({reason}). Give the path of a directory, or make the hub reachable.'
            ) from error


def copy(source: Path, target: Path, names: tuple[str, ...]) -> list[str]:
    """Copies those of the named files that exist, as they are.

    Returns:
        The names that were copied.
    """
    present = [name for name in names if (source / name).is_file()]
    if present:
        target.mkdir(parents=True, exist_ok=True)
    for name in present:
        shutil.copyfile(source / name, target / name)
    return present
