"""Settings: four sources in their order, and errors that name the right key."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, SecretStr

from edgebus.service import NodeSettings, ServiceSettings, SettingsError, load_settings
from edgebus.service.loading import load_node


class Source(ServiceSettings):
    kind: Literal["scene", "file"] = "scene"
    seed: int = 0


class Part(ServiceSettings):
    # As many a setting is: a list, or a word that stands for one.
    names: tuple[str, ...] | Literal["coco"] = ()


class SeenSettings(ServiceSettings):
    parts: dict[str, Part] = Field(default_factory=dict)
    threshold: float = Field(default=0.5, ge=0, le=1)
    classes: tuple[str, ...] = ()
    weights: dict[str, float] = Field(default_factory=dict)
    source: Source = Source()
    token: SecretStr = SecretStr("")
    label: str = ""


def load(
    tmp_path: Path,
    yaml: str = "",
    environment: dict[str, str] | None = None,
    overrides: tuple[str, ...] = (),
):
    config = tmp_path / "node.yaml"
    config.write_text(yaml)
    return load_settings(
        "seen",
        config=config,
        environment=environment or {},
        overrides=overrides,
        settings_type=SeenSettings,
    )


def problems(error: pytest.ExceptionInfo[SettingsError]) -> list[str]:
    return [str(problem) for problem in error.value.problems]


def test_defaults_need_no_file() -> None:
    node, seen = load_settings("seen", environment={}, settings_type=SeenSettings)
    assert (node.base, node.site) == ("edgebus", "lab")
    assert node.broker.url == "mqtt://localhost:1883"
    assert seen == SeenSettings()


def test_the_command_line_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    yaml = "site: a\nnode: file\nseen: {threshold: 0.1, label: file, source: {seed: 1}}\n"
    environment = {
        "EDGEBUS_SITE": "b",
        "EDGEBUS_SEEN__THRESHOLD": "0.2",
        "EDGEBUS_SEEN__SOURCE__SEED": "2",
    }
    node, seen = load(tmp_path, yaml, environment, ("seen.threshold=0.3",))
    assert (node.site, node.node) == ("b", "file")
    assert seen == SeenSettings(threshold=0.3, label="file", source=Source(seed=2))


def test_texts_become_what_the_setting_is(tmp_path: Path) -> None:
    _, seen = load(
        tmp_path,
        overrides=(
            'seen.classes=["car", "person"]',
            "seen.weights.Person=0.5",
            "seen.label=123",
            "seen.source.kind=file",
        ),
    )
    assert seen.classes == ("car", "person")
    assert seen.weights == {"Person": 0.5}
    assert seen.label == "123"
    assert seen.source.kind == "file"


def test_a_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    _, seen = load(tmp_path, overrides=("seen.label=a=b",))
    assert seen.label == "a=b"


def test_a_typo_names_the_nearest_key_and_where_it_came_from(tmp_path: Path) -> None:
    yaml = "sight: lab\nbroker: {urll: x}\nseen: {treshold: 0.1, source: {sed: 3}}\n"
    with pytest.raises(SettingsError) as error:
        load(tmp_path, yaml, {"EDGEBUS_SEEN__CLASES": "[]"}, ("seen.lable=x", "nodee=x"))
    found = problems(error)
    file = tmp_path / "node.yaml"
    assert f"sight ({file}): unknown key; did you mean site?" in found
    assert f"broker.urll ({file}): unknown key; did you mean url?" in found
    assert f"seen.treshold ({file}): unknown key; did you mean threshold?" in found
    assert f"seen.source.sed ({file}): unknown key; did you mean seed?" in found
    name = "environment variable EDGEBUS_SEEN__CLASES"
    assert f"seen.clases ({name}): unknown key; did you mean classes?" in found
    assert "seen.lable (command line): unknown key; did you mean label?" in found
    assert "nodee (command line): unknown key; did you mean node?" in found
    assert len(found) == 7


def test_a_misspelt_section_names_the_section(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean seen"):
        load(tmp_path, "sean: {threshold: 0.1}\n")


def test_an_unknown_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"variable EDGEBUS_BROKER_URL.*did you mean broker"):
        load(tmp_path, environment={"EDGEBUS_BROKER_URL": "mqtt://x"})


def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path) -> None:
    load(tmp_path, environment={"EDGEBUS_DATA": "/data", "PATH": "/bin"})


def test_what_kubernetes_sets_for_services_of_our_name_is_no_setting(tmp_path: Path) -> None:
    of_kubernetes = {
        "EDGEBUS_SERVICE_HOST": "10.0.0.1",
        "EDGEBUS_SERVICE_PORT": "1883",
        "EDGEBUS_SERVICE_PORT_MQTT_TLS": "8883",
        "EDGEBUS_PORT": "tcp://10.0.0.1:1883",
        "EDGEBUS_PORT_1883_TCP": "tcp://10.0.0.1:1883",
        "EDGEBUS_PORT_1883_TCP_PROTO": "tcp",
        "EDGEBUS_PORT_1883_TCP_PORT": "1883",
        "EDGEBUS_PORT_1883_TCP_ADDR": "10.0.0.1",
        "EDGEBUS_BROKER_SERVICE_HOST": "10.0.0.1",
        "EDGEBUS_BROKER_SERVICE_PORT": "1883",
        "EDGEBUS_BROKER_PORT": "udp://10.0.0.1:1883",
        "EDGEBUS_BROKER_PORT_14567_UDP_ADDR": "10.0.0.1",
    }
    load(tmp_path, environment=of_kubernetes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EDGEBUS_BROKER_URL", "mqtt://x"),
        ("EDGEBUS_PORT", "1883"),
        ("EDGEBUS_BROKER_PORT", "mqtt://10.0.0.1:1883"),
        ("EDGEBUS_SERVICE_PORT", "tcp"),
        ("EDGEBUS_SERVICE_HOSTS", "10.0.0.1"),
        ("EDGEBUS_SEEN__SERVICE_HOST", "10.0.0.1"),
        ("EDGEBUS_HARTBEAT_S", "3"),
    ],
)
def test_what_only_looks_like_it_is_still_a_typo(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"variable {name}.*unknown key"):
        load(tmp_path, environment={name: value})


def test_a_file_may_refer_to_the_environment(tmp_path: Path) -> None:
    yaml = "broker: {url: 'mqtt://ann:${PW}@host'}\n"
    yaml += "seen: {label: '$${PW} ${PW}', classes: ['${PW}']}\n"
    node, seen = load(tmp_path, yaml, {"PW": "S3/cr@et", "EDGEBUS_SECRET_1": "x"})
    assert node.broker.password is not None
    assert node.broker.password.get_secret_value() == "S3/cr@et"
    assert (seen.label, seen.classes) == ("${PW} S3/cr@et", ("S3/cr@et",))
    with pytest.raises(SettingsError, match=r"broker.url .*variable PW, which is not set"):
        load(tmp_path, yaml)


@pytest.mark.parametrize(
    "source",
    [
        "rtsp://ann:S3cret@host:x/s",
        "rtsp://ann:1/S3cret@host/s",
        "rtsp://ann:a long one that is cut S3cret" + 80 * "x" + "@host/s",
        "http://host/a?user=b&pwd=S3cret",
    ],
)
def test_an_address_that_does_not_fit_is_shown_without_its_secrets(
    tmp_path: Path, source: str
) -> None:
    for override in (
        f"seen.threshold={source}",
        f"seen.source.kind={source}",
        f"seen.x={source}",
        source,
    ):
        with pytest.raises(SettingsError) as error:
            load(tmp_path, overrides=(override,))
        assert "cret" not in str(error.value).replace("secret", "")


def test_a_wrong_value_is_shown_with_what_would_be_right(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, "seen: {threshold: 1.5}\nheartbeat_s: often\n", {}, ("seen.source.kind=tv",))
    found = " | ".join(problems(error))
    assert "less than or equal to 1, got '1.5'" in found
    assert "'scene' or 'file', got 'tv'" in found
    assert "valid number" in found
    assert "got 'often'" in found


def test_a_default_that_depends_on_a_wrong_value_is_no_second_problem(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, "site: a/b\nnode: x\n")
    assert len(problems(error)) == 1


def test_a_user_without_a_home_has_a_data_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert NodeSettings(site="lab", node="pi").data_dir == Path("/var/lib/edgebus/lab/pi")


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load(
            tmp_path,
            "broker: {url: 'http://ann:hunter2@host', password: [hunter2]}\n"
            "seen: {token: [hunter2]}\n",
        )
    assert "hunter2" not in str(error.value)
    assert len(error.value.problems) >= 2
    node, _ = load(tmp_path, "broker: {url: 'mqtt://ann:hunter2@host'}\n")
    assert "hunter2" not in repr(node)
    assert node.broker.password is not None
    assert node.broker.password.get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a\n- b\n", "holds a list"),
        ("site: [", "is no YAML"),
        ("site: a\nsite: b\n", "key 'site' is there twice"),
        ("seen: 5\n", "seen .*valid dictionary"),
        ("node: a/b\n", "node .*holds '/'"),
        ('node: "a\\u0007"\n', "control character"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone.yaml.*No such file"):
        load_settings(
            "seen", config=tmp_path / "gone.yaml", environment={}, settings_type=SeenSettings
        )


@pytest.mark.parametrize("pair", ["seen.threshold", "=3", "seen..x=1", ""])
def test_a_broken_pair_is_refused(tmp_path: Path, pair: str) -> None:
    with pytest.raises(SettingsError, match="is no key=value"):
        load(tmp_path, overrides=(pair,))


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("[car, person]", ("car", "person")),
        ('["car", "person"]', ("car", "person")),
        ("[ 'a b' ]", ("a b",)),
        ("[]", ()),
    ],
)
def test_a_list_is_written_as_in_the_file(
    tmp_path: Path, text: str, classes: tuple[str, ...]
) -> None:
    for given in (
        {"overrides": (f"seen.classes={text}", f"seen.parts.front.names={text}")},
        {"environment": {"EDGEBUS_SEEN__CLASSES": text, "EDGEBUS_SEEN__PARTS__FRONT__NAMES": text}},
        {"overrides": (f"seen={{classes: {text}, parts: {{front: {{names: {text}}}}}}}",)},
    ):
        _, settings = load(tmp_path, **given)  # type: ignore[arg-type]
        assert settings.classes == classes
        assert settings.parts["front"].names == classes


def test_a_mapping_is_written_as_in_the_file(tmp_path: Path) -> None:
    _, settings = load(tmp_path, overrides=("seen.weights={car: 0.5}", "seen.label={car"))
    assert (settings.weights, settings.label) == ({"car": 0.5}, "{car")


def test_a_list_that_is_none_says_how(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"a list is written \[a, b\]"):
        load(tmp_path, overrides=("seen.parts.front.names=car,person",))
    with pytest.raises(SettingsError, match=r"written \[a, b\]") as error:
        load(tmp_path, overrides=("seen.classes=car,person",))
    assert error.value.problems[0].origin == "command line"


def test_sections_of_other_installed_services_are_not_judged(tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text("site: yard\nseen: {threshold: 0.1}\n")
    node = load_node(config=config, environment={}, overrides=(), sections={"seen"})
    assert node.site == "yard"
    with pytest.raises(SettingsError, match="seen"):
        load_node(config=config, environment={}, overrides=(), sections=set())


def test_an_empty_section_is_all_defaults(tmp_path: Path) -> None:
    _, seen = load(tmp_path, "seen:\n")
    assert seen == SeenSettings()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        SeenSettings().threshold = 0.1
