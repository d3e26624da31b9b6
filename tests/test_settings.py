"""The configuration: the guide's file is kept whole, and whatever is wrong is refused by line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bot.settings import (
    Settings,
    SettingsError,
    TokenError,
    discord_token,
    load,
    parse,
)
from bot.yaml_document import MAX_BYTES, MAX_VALUES
from tests.unprivileged import folder_for_anybody, run_unprivileged

GUIDE = """\
# GPU Memory Management Settings
gpu_memory:
  # Main LLM GPU (4070) - reserved for LLM operations
  main_llm_device: "cuda:0"
  main_llm_memory_reservation_gb: 8.0  # Reserve 8GB for main LLM
  
  # Vision processing GPU (4070 Super) - for vision models
  vision_device: "cuda:1"
  vision_memory_limit_gb: 2.0  # Limit vision processing to 2GB
  
  # Fallback to CPU if GPU memory is insufficient
  fallback_to_cpu: true
  cpu_fallback_threshold_gb: 1.0  # Fallback if less than 1GB available
  
  # Memory monitoring
  enable_memory_monitoring: true
  memory_check_interval: 30  # seconds

# CLIP Video Understanding Settings
clip:
  enabled: true
  processing_fps: 1
  model_name: "ViT-B/32"
  device: "cuda:1"  # Will be overridden by GPU memory manager
  confidence_threshold: 0.3
  max_insights: 10

# YOLO Object Detection Settings
yolo:
  model_path: "models/yolo-nano.pt"
  confidence_threshold: 0.5
  device: "cuda:1"  # Will be overridden by GPU memory manager
  classes: ["health_bar", "minimap", "boss", "player", "enemy"]

# Performance Settings
performance:
  gpu_memory_fraction: 0.3  # Reduced to leave room for main LLM
"""  # noqa: W293 - as it stands in the guide, blanks at line ends included

LINE = re.compile(r"^game\.yaml:\d+: .+$")


def refusal(text: bytes | str) -> list[str]:
    """What is said against this file, line by line; each names the file and a line."""
    with pytest.raises(SettingsError) as caught:
        parse(text, "game.yaml")
    lines = str(caught.value).splitlines()
    assert all(LINE.match(line) for line in lines), lines
    return lines


def leaves(value: Any, where: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in leaves(v, (*where, k))]
    return [(where, value)]


def found(loaded: Settings, where: tuple[str, ...]) -> Any:
    value: Any = loaded
    for part in where:
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("where", "value"), leaves(yaml.safe_load(GUIDE)))
def test_every_key_of_the_guide_is_kept(where: tuple[str, ...], value: Any) -> None:
    assert found(parse(GUIDE), where) == value


def test_a_changed_key_of_the_guide_changes_the_settings() -> None:
    changed = parse(GUIDE.replace("reservation_gb: 8.0", "reservation_gb: 6.5"))
    assert changed.gpu_memory.main_llm_memory_reservation_gb == 6.5


def test_the_shipped_file_is_valid_and_holds_the_guides_values() -> None:
    shipped = load(Path(__file__).parents[1] / "config" / "vision_config.yaml")
    for where, value in leaves(yaml.safe_load(GUIDE)):
        assert found(shipped, where) == value, where


def test_the_guides_share_reaches_the_manager_with_its_limits() -> None:
    assert parse("performance: {gpu_memory_fraction: 0.2}").gpu_memory.gpu_memory_fraction == 0.2
    both = "performance: {gpu_memory_fraction: 0.2}\ngpu_memory: {gpu_memory_fraction: 0.6}"
    assert parse(both).gpu_memory.gpu_memory_fraction == 0.6


@pytest.mark.parametrize("nothing", ["", "# only a comment\n", "---\n", "yolo:\n", b"\xef\xbb\xbf"])
def test_what_is_not_said_has_its_default(nothing: str | bytes) -> None:
    assert parse(nothing) == Settings()


def test_a_list_may_be_shared_by_an_anchor() -> None:
    text = "clip:\n  profile: b\n  profiles:\n    a: &list [one, two]\n    b: *list\n"
    assert parse(text).clip.concepts == ("one", "two")


def test_a_profile_may_be_called_anything() -> None:
    text = "clip:\n  profile: 'no'\n  profiles:\n    no: [a, b]\n    7: [c, d]\n"
    assert parse(text).clip.concepts == ("a", "b")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_editors_of_all_kinds_may_save_it(encoding: str) -> None:
    text = 'clip:\r\n  profile: x\r\n  profiles:\r\n    x: ["Höhle", "ボス戦"]\r\n'
    assert parse(text.encode(encoding)).clip.concepts == ("Höhle", "ボス戦")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "yolo:\n  device: cuda1\n",
            "game.yaml:2: yolo.device: must be a device such as cuda:0, or 'cpu', not 'cuda1'",
        ),
        (
            "\ngpu_memory:\n\n  main_llm_memory_reservation_gb: lots\n",
            "game.yaml:4: gpu_memory.main_llm_memory_reservation_gb: "
            "must be a number, or 'auto', not 'lots'",
        ),
        (
            "gpu_memory:\n  vison_device: cuda:1\n",
            "game.yaml:2: gpu_memory.vison_device: is not a key that Danzar knows; "
            "did you mean vision_device?",
        ),
        (
            "gpu_memroy:\n  vision_device: cuda:1\n",
            "game.yaml:1: gpu_memroy: is not a key that Danzar knows; did you mean gpu_memory?",
        ),
        ("xyzzy: 1\n", "game.yaml:1: xyzzy: is not a key that Danzar knows"),
        (
            "gpu_memory:\n  memory_check_interval: 0\n",
            "game.yaml:2: gpu_memory.memory_check_interval: must be at least 0.1, not 0",
        ),
        ("yolo: 5\n", "game.yaml:1: yolo: must be a section with keys of its own, not 5"),
        (
            "clip:\n  enabled: maybe\n",
            "game.yaml:2: clip.enabled: must be true or false, not 'maybe'",
        ),
        ("clip:\n  enabled:\n", "game.yaml:2: clip.enabled: must be true or false, not empty"),
        ("capture:\n  fps: true\n", "game.yaml:2: capture.fps: must be a number, not true"),
        ('capture:\n  fps: "5"\n', "game.yaml:2: capture.fps: must be a number, not '5'"),
        (
            "capture:\n  fps: 1e1\n",
            "game.yaml:2: capture.fps: must be a number, not '1e1', which YAML takes for text: "
            "write 10 or 1.0e+1",
        ),
        ("capture:\n  fps: .nan\n", "game.yaml:2: capture.fps: must be a finite number, not .nan"),
        (
            "capture:\n  fps: -.inf\n",
            "game.yaml:2: capture.fps: must be a finite number, not -.inf",
        ),
        (
            "capture:\n  monitor: 1.5\n",
            "game.yaml:2: capture.monitor: must be a whole number, not 1.5",
        ),
        (
            "capture:\n  region: [1, 2, 3]\n",
            "game.yaml:2: capture.region: must be complete: item 4 is missing, not [1, 2, 3]",
        ),
        (
            "capture:\n  source: video\n",
            "game.yaml:1: capture: source: video needs capture.path",
        ),
        (
            "logging: {level: LOUD}\n",
            "game.yaml:1: logging.level: must be 'DEBUG', 'INFO', 'WARNING' or 'ERROR', not 'LOUD'",
        ),
        (
            "yolo:\n  classes: []\n",
            "game.yaml:2: yolo.classes: must be a list of at least 1 item, not []",
        ),
        (
            "clip:\n  profile: x\n  profiles:\n    x:\n      - a\n      - ''\n",
            "game.yaml:6: clip.profiles.x[1]: must be at least 1 character long, not ''",
        ),
        (
            "yolo:\n  enabled: true\n  model_path: a\n  enabled: false\n",
            "game.yaml:4: yolo.enabled: appears twice (first on line 2)",
        ),
        ("yolo: {}\nclip: {}\nyolo: {}\n", "game.yaml:3: yolo: appears twice (first on line 1)"),
        (
            "- yolo\n- clip\n",
            "game.yaml:1: must be a mapping of sections such as gpu_memory: and yolo:",
        ),
        ("cuda:1\n", "game.yaml:1: must be a mapping of sections such as gpu_memory: and yolo:"),
        (
            'capture:\n  path: "C:\\Users\\ada\\game.mp4"\n',
            "game.yaml:2: is not valid YAML: a \\ between double quotes begins an escape: write a "
            "path of Windows without quotes, or between single ones",
        ),
        (
            "yolo:\n\tenabled: true\n",
            "game.yaml:2: is not valid YAML: a tab is where only spaces may be",
        ),
        (
            "yolo: [1, 2\n",
            "game.yaml:2: is not valid YAML: expected ',' or ']', but got '<stream end>'",
        ),
        ("yolo: *nowhere\n", "game.yaml:1: is not valid YAML: found undefined alias 'nowhere'"),
        ("? [a, b]\n: c\n", "game.yaml:1: a key must be a word"),
        (
            "yolo:\n  <<: {enabled: true}\n",
            "game.yaml:2: yolo.<<: merging with << is not supported: write the keys out",
        ),
        (
            "yolo: !!python/object/apply:os.system ['true']\n",
            "game.yaml:1: yolo: has a tag that is not allowed here: "
            "tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("yolo:\n  batch_size: !!int two\n", "game.yaml:2: yolo.batch_size: is not a number: two"),
        (
            "yolo: {}\n---\nclip: {}\n",
            "game.yaml:2: is not valid YAML: expected a single document in the stream, "
            "but found another document",
        ),
        (
            "discord:\n  token: MTAxMDEw.Gsecret.aVery\n",
            "game.yaml:2: discord.token: must not be here: the token comes from DISCORD_TOKEN or "
            "DISCORD_TOKEN_FILE",
        ),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(text: str, said: str) -> None:
    assert refusal(text) == [said]


def test_all_mistakes_are_named_at_once_in_the_order_of_the_lines() -> None:
    said = refusal("yolo:\n  batch_size: 0\n  colour: red\nclip:\n  max_insights: many\n")
    assert [line.split(" must")[0].split(" is")[0] for line in said] == [
        "game.yaml:2: yolo.batch_size:",
        "game.yaml:3: yolo.colour:",
        "game.yaml:5: clip.max_insights:",
    ]


def test_very_many_mistakes_are_counted() -> None:
    text = "".join(f"key{n}: 1\n" for n in range(500))
    with pytest.raises(SettingsError) as caught:
        parse(text, "game.yaml")
    assert len(caught.value.problems) == 500
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "game.yaml: and 480 more problems"
    with pytest.raises(SettingsError, match=r"game.yaml: and 1 more problem$"):
        parse("".join(text.splitlines(keepends=True)[:21]), "game.yaml")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"yolo:\n  model_path: caf\xe9\n", "game.yaml:2: is not text in UTF-8"),
        (b"\xff\xfe\x00", "game.yaml:1: is not text in UTF-8"),
        (b"a: b\n\x00\x01\x02", "game.yaml:2: is not valid YAML: character 0x0 is not allowed"),
        (b"x: " + b"9" * 9000, "game.yaml:1: x: is a number of 9000 characters"),
        (b"[" * 5000, "game.yaml:1: is nested too deeply"),
        (b"{a: " * 5000, "game.yaml:1: is nested too deeply"),
        (b"".join(b" " * n + b"a:\n" for n in range(100)), "game.yaml:22: is nested too deeply"),
        (b"a: &a [*a]\n", "game.yaml:1: is nested too deeply"),
        (b"a: &a {b: *a, c: *a}\n", "game.yaml:1: is nested too deeply"),
        (b"#" * (MAX_BYTES + 1), "game.yaml:1: is larger than 256 KiB"),
    ],
)
def test_junk_is_refused(raw: bytes, said: str) -> None:
    assert refusal(raw) == [said]


def test_what_can_not_be_printed_is_escaped() -> None:
    assert refusal('"\\e[31mred": 1\n') == [
        "game.yaml:1: '\\x1b[31mred': is not a key that Danzar knows"
    ]
    assert refusal('yolo: {}\n"\\ud800": 1\n') == [
        "game.yaml:2: '\\ud800': holds half of a character (a lone surrogate)"
    ]
    assert refusal('yolo:\n  model_path: "\\ud800"\n') == [
        "game.yaml:2: yolo.model_path: holds half of a character (a lone surrogate)"
    ]


LAUGHS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
KEYED_LAUGHS = "a0: &a0 {k: v}\n" + "".join(
    f"a{n}: &a{n} {{{', '.join(f'k{m}: *a{n - 1}' for m in range(10))}}}\n" for n in range(1, 12)
)
KEY_OF_LAUGHS = LAUGHS + "? *a11\n: 1\n"
MERGED_LAUGHS = "a0: &a0 {k: v}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)
SMALL_PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from bot.settings import SettingsError, parse
try:
    parse(sys.stdin.buffer.read(), "game.yaml")
except SettingsError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "gpu_memory:\n  main_llm_device: cuda:1\n  vision_device: cuda:01\n",
            "game.yaml:3: gpu_memory.vision_device: must be another card than main_llm_device "
            "(line 2), not cuda:1, too; with a single card leave vision_device out: vision then "
            "gets what is not promised to the LLM",
        ),
        (
            "gpu_memory:\n  main_llm_device: cuda:1\n",
            "game.yaml:2: gpu_memory.main_llm_device: is cuda:1, which vision_device is by "
            "default, too: write another vision_device",
        ),
        (
            "gpu_memory:\n  vision_device: cuda:0\n",
            "game.yaml:2: gpu_memory.vision_device: is cuda:0, which main_llm_device is by "
            "default, too: write both",
        ),
        (
            "gpu_memory:\n  headroom_gb: 0.1\n",
            "game.yaml:2: gpu_memory.headroom_gb: must be at least pressure_gb, which is 0.25, "
            "not 0.1: a model would have to leave as soon as it came",
        ),
        (
            "gpu_memory:\n  main_llm_reservation_min_gb: 30\n",
            "game.yaml:2: gpu_memory.main_llm_reservation_min_gb: must be at most "
            "main_llm_reservation_max_gb, which is 24, not 30",
        ),
        (
            "gpu_memory:\n  headroom_gb: 1\n  main_llm_reservation_max_gb: 1\n",
            "game.yaml:3: gpu_memory.main_llm_reservation_max_gb: must be at least "
            "main_llm_reservation_min_gb, which is 2, not 1",
        ),
        (
            "gpu_memory:\n  main_llm_endpoint: http://127.0.0.1:70000\n",
            "game.yaml:2: gpu_memory.main_llm_endpoint: must have a port between 1 and 65535",
        ),
        (
            "yolo:\n  classes:\n  - boss\n  - boss\n",
            "game.yaml:4: yolo.classes[1]: is there twice: ",
        ),
        (
            "clip: {profiles: {default: [' ', b]}}\n",
            "game.yaml:1: clip.profiles.default[0]: must be a word, not blanks",
        ),
        (
            "data:\n  folder: ' '\n",
            "game.yaml:2: data.folder: must be a text that is not blank, without control "
            "characters, not ' '",
        ),
        ('yolo:\n  model_path: "a\\0b"\n', "game.yaml:2: yolo.model_path: must be a text that"),
        ('discord:\n  prefix: " !"\n', "game.yaml:2: discord.prefix: must be a text that"),
        (
            "capture:\n  source: stream\n  url: rtsp://camera:99999/1\n",
            "game.yaml:3: capture.url: the address must have a port from 0 to 65535",
        ),
        (
            "capture:\n  source: stream\n  url: file:///etc/passwd\n",
            "game.yaml:3: capture.url: must be an address such as rtsp://camera/1",
        ),
        (
            "observability:\n  host: not a host\n",
            "game.yaml:2: observability.host: must be a host's name or address, not 'not a host'",
        ),
        (
            "capture: {source: region, region: [0, 0, 999999, 999999]}\n",
            "game.yaml:1: capture.region: a region is at least 16 x 16 pixels and at most 16384",
        ),
        (
            "yolo: {classes: [" + ", ".join(f"c{n}" for n in range(1001)) + "]}\n",
            "game.yaml:1: yolo.classes: must be a list of at most 1000 items",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_key_that_has_to_change(text: str, said: str) -> None:
    [line] = refusal(text)
    assert line.startswith(said)


@pytest.mark.parametrize("deep", ["a: " + "[" * 3000, "{" * 3000, "- " * 3000], ids=["[", "{", "-"])
def test_deep_nesting_is_left_at_once(deep: str) -> None:
    # PyYAML alone needs minutes for the last and seconds for the others.
    assert refusal(deep) == ["game.yaml:1: is nested too deeply"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits a process's memory as Unix does")
@pytest.mark.parametrize(
    ("bomb", "said"),
    [
        pytest.param(LAUGHS, f"holds more than {MAX_VALUES} values", id="lists"),
        pytest.param(KEYED_LAUGHS, f"holds more than {MAX_VALUES} values", id="mappings"),
        pytest.param(KEY_OF_LAUGHS, f"holds more than {MAX_VALUES} values", id="key"),
        pytest.param(MERGED_LAUGHS, "merging with << is not supported", id="merges"),
        pytest.param("a: " + "1:" * 100_000 + "1", "is a number of 200001 characters", id="sixty"),
        pytest.param("- " * 100_000, "is nested too deeply", id="lists within lists"),
        pytest.param("x: [" + "a," * 25_000 + "]", f"more than {MAX_VALUES} values", id="long"),
    ],
)
def test_a_bomb_does_not_go_off(bomb: str, said: str) -> None:
    """Ten lines that mean 10^11 values: refused within a gigabyte and a minute of one core."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL_PROGRAM],
        input=bomb.encode(),
        capture_output=True,
        cwd=Path(__file__).parents[1],
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    first = done.stdout.decode().splitlines()[0]
    assert LINE.match(first) and said in first


WORDS = st.sampled_from(
    [
        "gpu_memory", "vision_device", "clip", "yolo", "classes", "device", "profiles", "enabled",
        ":", " ", "\n", "\n  ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "<<", "!!int ",
        "!!set ", "!x ", "? ", "|", ">", "'", '"', "\\", "#", "%YAML 1.1\n", "---\n", "...\n",
        "\t", "\x07", "cuda:1", "true", "null", "~", "1e999", "0x10", "1:30", "-1", ".inf",
        "2026-13-45", "\ud800",
    ]
)  # fmt: skip


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200), st.lists(WORDS).map("".join)))
@example(b'"\\UFFFFFFFF": 1')
@example("%YAML 99999999999999999999.1\n---\na: 1")
@example("a: !!float ''")
@example("a: !!bool maybe")
@example("a: !!timestamp nonsense")
@example("a: !!binary x")
@example("yolo: !!map [1]")
@example("yolo: !!str {a: b}")
def test_any_text_at_all_is_settings_or_a_clear_refusal(raw: bytes | str) -> None:
    try:
        loaded = parse(raw, "game.yaml")
    except SettingsError as error:
        assert error.problems
        assert all(p.message for p in error.problems)
        lines = str(error).splitlines()
        assert all(LINE.match(line) or "more problems" in line for line in lines), lines
        str(error).encode()
    else:
        assert isinstance(loaded, Settings)


SECTIONS = {
    name: list(field.annotation.model_fields)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    for name, field in Settings.model_fields.items()
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=20)
    | st.sampled_from(["cuda:0", "cpu", "auto", "screen", "ViT-B/32"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=4)
    ),
    max_leaves=6,
)


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_value_under_any_key_is_kept_or_refused_at_its_line(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(sorted(SECTIONS)))
    key = data.draw(st.sampled_from([*SECTIONS[section], "unheard_of"]))
    value = data.draw(VALUES)
    text = yaml.safe_dump({section: {key: value}}, allow_unicode=True)
    try:
        loaded = parse(text, "game.yaml")
    except SettingsError as error:
        for problem in error.problems:
            # A section as a whole is refused where two of its keys don't go together.
            assert problem.key == section or problem.key.startswith(f"{section}.{key}")
            assert problem.line is not None
            assert 1 <= problem.line <= len(text.splitlines())
    else:
        assert key != "unheard_of"
        kept = found(loaded, (section, key))
        if isinstance(value, int | float | bool):
            assert kept == value and isinstance(kept, bool) == isinstance(value, bool)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.yaml"
    with pytest.raises(SettingsError, match=r"nothing\.yaml: there is no such file"):
        load(missing)
    with pytest.raises(SettingsError, match=": can't be read: it is a folder, not a file"):
        load(tmp_path)


def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SettingsError, match=r"large\.yaml:1: is larger than 256 KiB"):
        load(large)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_a_pipe_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)  # whoever opens it waits for somebody who writes
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(SettingsError, match=": is a device or a pipe, not a file"):
            load(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_a_file_that_belongs_to_somebody_else_is_named() -> None:
    with folder_for_anybody() as folder:
        path = folder / "mine.yaml"
        path.write_text("yolo: {enabled: false}\n", encoding="utf-8")
        path.chmod(0o000)
        imports = "import sys\nfrom bot.settings import SettingsError, load"
        code = "try: load(sys.argv[1])\nexcept SettingsError as error: print(error)"
        said = run_unprivileged(imports, code, path)
    assert said == f"{path}: can't be read: Permission denied\n"


def test_a_refused_address_keeps_its_password_to_itself() -> None:
    for text in (
        "capture: {source: stream, url: 'ftp://ada:s3cret@camera/1'}",
        "capture: {source: stream, url: 'rtsp://ada:s3cret@camera:99999/1'}",
        "gpu_memory: {main_llm_endpoint: 'ftp://ada:s3cr@et@llm'}",
        "gpu_memory: {main_llm_endpoint: 'http://ada:s3cret@llm:0'}",
        "capture: {source: 'rtsp://ada:s3cret@camera/1'}",
        "capture: {source: stream, url: 'rtsp:ada:s3cret@camera/1'}",
        "capture: {source: stream, url: 'ftp://camera/1?user=ada&key=s3cret'}",
    ):
        with pytest.raises(SettingsError) as refused:
            parse(text)
        assert "s3cr" not in str(refused.value)
        assert "ada" not in str(refused.value)


def test_without_the_default_file_the_defaults_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load() == Settings()


SECRET = "MTAxMDEw.Gsecret.aVerySecretTokenIndeed"


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"  {SECRET}\r\n")
    assert discord_token({}) is None
    assert discord_token({"DISCORD_TOKEN": " ", "DISCORD_TOKEN_FILE": ""}) is None
    assert discord_token({"DISCORD_TOKEN": f" {SECRET}\n"}) == SECRET
    assert discord_token({"DISCORD_TOKEN_FILE": str(file)}) == SECRET
    for encoding in ("utf-8-sig", "utf-16"):  # as PowerShell writes it
        file.write_text(f"{SECRET}\r\n", encoding)
        assert discord_token({"DISCORD_TOKEN_FILE": str(file)}) == SECRET
    first = {"DISCORD_TOKEN": "first.one.wins", "DISCORD_TOKEN_FILE": str(file)}
    assert discord_token(first) == "first.one.wins"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (SECRET.encode() + b"\xff", "is not a text file"),
        (f"{SECRET}\n{SECRET}\n".encode(), "something else than one token"),
        (f"DISCORD_TOKEN: {SECRET}".encode(), "something else than one token"),
        (SECRET.encode("utf-16-be"), "something else than one token"),
    ],
)
def test_a_bad_token_file_is_named_and_the_token_never_shown(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "token-file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TokenError, match=said) as caught:
        discord_token({"DISCORD_TOKEN_FILE": str(file)})
    assert str(file) in str(caught.value)
    assert "ecret" not in str(caught.value) and caught.value.__cause__ is None


def test_a_token_that_is_none_is_not_shown_either() -> None:
    with pytest.raises(TokenError, match="DISCORD_TOKEN holds something else") as caught:
        discord_token({"DISCORD_TOKEN": f"Bot {SECRET}"})
    assert "ecret" not in str(caught.value)
