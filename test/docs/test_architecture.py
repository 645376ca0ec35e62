# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text()


def test_every_file_it_names_exists():
    linked = re.findall(r"\]\(([^)#]+)\)", TEXT)
    named = re.findall(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+\.(?:py|md))`", TEXT)
    places = [ROOT / "docs" / entry for entry in linked]
    for entry in named:
        places_of_it = [root / entry for root in (ROOT, ROOT / "vidllm_ros", ROOT / "docs")]
        places.append(next((place for place in places_of_it if place.exists()), places_of_it[0]))
    missing = [str(place) for place in places if not place.exists()]
    assert len(linked) > 20
    assert not missing


def test_every_file_of_the_network_is_in_it():
    files = {path.name for path in (ROOT / "vidllm_ros" / "network").glob("*.py")}
    unmentioned = {name for name in files - {"__init__.py"} if f"network/{name}" not in TEXT}
    assert not unmentioned
