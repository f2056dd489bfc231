"""The categories that rows are labelled with: a file that is easy to change."""

import json
import pathlib

OWN = pathlib.Path(__file__).with_name('categories.json')
FIELDS = ('name', 'zh', 'definition')


def read(path: str | pathlib.Path = OWN) -> list[dict[str, str]]:
    """The categories of a file.

    Args:
        path: A JSON array of objects with name (as it is written to rows), zh (as a Chinese reader
            calls it) and definition (what the labelling model is told); by default the 13
            categories of BELLE's 3.5M set.
    Returns:
        The categories, in order.
    Raises:
        ValueError: the file is not there or broken, a field is missing or empty, or two categories
            share a name.
    """
    path = pathlib.Path(path)
    try:
        found = json.loads(path.read_text('utf-8-sig'))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f'{path} cannot be read ({reason}): give a file of categories.') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not UTF-8: convert the file to UTF-8.') from error
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}:{error.lineno}: broken JSON ({error.msg}): mend it.') from error
    if not isinstance(found, list) or len(found) < 2:
        raise ValueError(f'{path} must be a JSON array of two categories or more.')
    names = set()
    for number, category in enumerate(found, 1):
        for field in FIELDS:
            text = category.get(field) if isinstance(category, dict) else None
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f'{path}: category {number} has no text in "{field}": each has '
                    f'{", ".join(FIELDS)}.'
                )
        if category['name'] in names:
            raise ValueError(f'{path}: two categories are called {category["name"]!r}: rename one.')
        names.add(category['name'])
    return found
