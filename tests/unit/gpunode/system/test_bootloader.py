"""Which kernel boots by default: a real grub.cfg and grubenv of Debian 12 with two kernels, and the settings in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import bootloader

DATA = Path(__file__).parents[3] / "data/grub"
CONFIG = (DATA / "debian12-two-cloud-kernels.cfg").read_text()
SAVED = (DATA / "debian12-saved-entry.grubenv").read_text()
NEW, OLD = "6.12.95+deb12-cloud-amd64", "6.1.0-56-cloud-amd64"
UUID = "871f75b8-c4e6-54f8-8a1d-903c88776e73"
ADVANCED = "Advanced options for Debian GNU/Linux"


def make_root(root: Path, config: str | None = CONFIG, environment: str = "", defaults: str = "GRUB_DEFAULT=0\n") -> Path:
    for folder in ("boot/grub", "etc/default/grub.d"):
        (root / folder).mkdir(parents=True)
    for kver in (NEW, OLD):
        (root / f"boot/vmlinuz-{kver}").touch()
    if config is not None:
        (root / "boot/grub/grub.cfg").write_text(config)
    if environment:
        (root / "boot/grub/grubenv").write_text(environment)
    (root / "etc/default/grub").write_text(defaults)
    return root


def with_default(value: str) -> str:
    assert CONFIG.count('set default="0"') == 1
    return CONFIG.replace('set default="0"', f'set default="{value}"')


@pytest.mark.parametrize(
    ("default", "kver"),
    [
        pytest.param("0", NEW, id="the first"),
        pytest.param("1>0", NEW, id="by numbers"),
        pytest.param("1>2", OLD, id="by numbers, the older"),
        pytest.param("1>3", OLD, id="recovery mode of the older"),
        pytest.param(f"gnulinux-advanced-{UUID}>gnulinux-{OLD}-advanced-{UUID}", OLD, id="by ids"),
        pytest.param(f"{ADVANCED}>Debian GNU/Linux, with Linux {OLD}", OLD, id="by titles"),
        pytest.param(f"1>Debian GNU/Linux, with Linux {OLD}", OLD, id="by number and title"),
        pytest.param("1", NEW, id="a submenu's first entry"),
        pytest.param(ADVANCED, NEW, id="a submenu by title"),
        pytest.param("1>no such entry", NEW, id="a submenu's first where the name is wrong"),
        pytest.param("0>2", NEW, id="no submenu"),
        pytest.param("no such entry", NEW, id="GRUB takes the first where the name is wrong"),
        pytest.param("7", NEW, id="GRUB takes the first where the number is too high"),
        pytest.param("", NEW, id="nothing set"),
        pytest.param("${saved_entry}", NEW, id="saved, and nothing was saved"),
    ],
)
def test_the_default_entry_tells_the_kernel(tmp_path: Path, default: str, kver: str) -> None:
    root = make_root(tmp_path, with_default(default), defaults="")
    assert bootloader.default_kernel(root).kver == kver


def test_a_default_that_begins_with_a_number_is_that_number(tmp_path: Path) -> None:
    """As GRUB reads it: whatever follows the number, and in C's notation."""
    menu = "".join(f"menuentry 'Linux {kver}' {{\n\tlinux /vmlinuz-{kver}\n}}\n" for kver in (NEW, OLD))
    for default, kver in ((f"1 {NEW}", OLD), (f"0 {OLD}", NEW), ("01", OLD), ("0x1", OLD), (OLD, NEW), (f"Linux {OLD}", OLD)):
        root = make_root(tmp_path / default.replace(" ", "-"), f'set default="{default}"\n{menu}', defaults="")
        assert bootloader.default_kernel(root).kver == kver, default


def test_a_first_entry_that_is_a_submenu_leads_to_its_own_first(tmp_path: Path) -> None:
    menu = f"submenu 'Older' {{\n\tmenuentry 'old' {{\n\t\tlinux /vmlinuz-{OLD}\n\t}}\n}}\nmenuentry 'new' {{\n\tlinux /vmlinuz-{NEW}\n}}\n"
    for default in ("", "no such entry", "0>7", "0"):
        root = make_root(tmp_path / (default or "none"), f'set default="{default}"\n{menu}', defaults="")
        assert bootloader.default_kernel(root).kver == OLD, default


def test_a_saved_entry_counts_where_grub_asks_for_it(tmp_path: Path) -> None:
    environment = f"# GRUB Environment Block\nsaved_entry=1>2\n{'#' * 900}"
    assert bootloader.default_kernel(make_root(tmp_path / "a", with_default("${saved_entry}"), environment)).kver == OLD
    assert bootloader.default_kernel(make_root(tmp_path / "b", CONFIG, environment)).kver == NEW
    assert bootloader.default_kernel(make_root(tmp_path / "c", with_default("${saved_entry}"), SAVED)).kver == NEW


@pytest.mark.parametrize(
    ("config", "environment", "why"),
    [
        pytest.param(None, "", "does not exist", id="no GRUB"),
        pytest.param("", "", "no entry that boots a Linux kernel", id="an empty file"),
        pytest.param("submenu 'Empty' {\n}\n", "", "no entry that boots a Linux kernel", id="an empty submenu"),
        pytest.param(CONFIG, "next_entry=1>2\n", "for the next boot only", id="another one, once"),
        pytest.param(
            with_default("${saved_entry}"), "prev_saved_entry=1>2\nsaved_entry=0\n", "for the next boot only", id="the same, old way"
        ),
        pytest.param(f"{CONFIG}\nblscfg\n", "", "blscfg", id="entries elsewhere"),
        pytest.param("menuentry 'Windows' {\n\tchainloader +1\n}\n", "", "no entry that boots", id="another system"),
        pytest.param("menuentry 'Linux' {\n\tlinux /kernel ro\n}\n", "", "no entry that boots", id="a kernel without a release"),
    ],
)
def test_what_cannot_be_told_is_not_guessed(tmp_path: Path, config: str | None, environment: str, why: str) -> None:
    choice = bootloader.default_kernel(make_root(tmp_path, config, environment))
    assert choice.kver == ""
    assert why in choice.reason


def test_a_custom_file_that_sets_a_default_is_not_followed(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "boot/grub/custom.cfg").write_text("set default=1\n")
    assert "custom.cfg" in bootloader.default_kernel(root).reason


@pytest.mark.parametrize(
    ("defaults", "dropin", "config", "said"),
    [
        pytest.param("GRUB_DEFAULT=0\n", "", CONFIG, "", id="as configured"),
        pytest.param('GRUB_DEFAULT="1>2"\n', "", CONFIG, "run update-grub", id="not yet in force"),
        pytest.param("GRUB_DEFAULT=0\n", 'GRUB_DEFAULT="1>2"\n', CONFIG, "run update-grub", id="a drop-in comes later"),
        pytest.param("GRUB_DEFAULT=saved\n", "", with_default("${saved_entry}"), "", id="saved"),
        pytest.param("#GRUB_DEFAULT=4\n", "", CONFIG, "", id="a comment"),
    ],
)
def test_a_configuration_that_is_not_in_force_is_said(tmp_path: Path, defaults: str, dropin: str, config: str, said: str) -> None:
    root = make_root(tmp_path, config, defaults=defaults)
    (root / "etc/default/grub.d/50-x.cfg").write_text(dropin)
    warnings = bootloader.default_kernel(root).warnings
    assert (said in " ".join(warnings)) if said else warnings == ()


def test_a_kernel_that_grub_does_not_know_yet_is_said(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "boot/vmlinuz-6.12.99+deb12-cloud-amd64").touch()
    assert "kernel 6.12.99+deb12-cloud-amd64 is installed but not in" in " ".join(bootloader.default_kernel(root).warnings)


# --- files that nobody would write, and somebody may ------------------------------------------------------------------------


@pytest.mark.parametrize("saved", ["a\\\\1b", "\\\\g<0>", "C:\\\\", "\\\\u00fc"])
def test_a_saved_title_with_a_backslash_is_only_a_title(tmp_path: Path, saved: str) -> None:
    assert bootloader.default_entry('set default="${saved_entry}"', {"saved_entry": saved}) == saved


@pytest.mark.parametrize("default", ["9" * 5000, "0x" + "f" * 5000, "0" + "7" * 5000])
def test_a_default_of_many_digits_names_no_entry(tmp_path: Path, default: str) -> None:
    assert bootloader.default_kernel(make_root(tmp_path, with_default(default), defaults="")).kver == NEW


def test_any_number_of_menus_inside_each_other_is_read(tmp_path: Path) -> None:
    config = (
        "".join(f"submenu 's{number}' {{\n" for number in range(3000)) + f"menuentry 'x' {{\nlinux /boot/vmlinuz-{NEW}\n}}\n" + "}\n" * 3000
    )
    assert bootloader.default_kernel(make_root(tmp_path, config, defaults="")).kver == NEW


@pytest.mark.parametrize(
    "config",
    ["\n" * 10**5, " " * 10**6, "f() {\n" * 10**4, "menuentry '" + "x" * 10**6, "set default=" + '"' * 10**6, "linux " * 10**5],
    ids=["lines", "blanks", "blocks", "title", "quotes", "words"],
)
def test_a_long_file_is_read_at_once(tmp_path: Path, config: str) -> None:
    root = make_root(tmp_path, config, defaults=config)
    assert bootloader.default_kernel(root).kver == ""


STUB = "search --no-floppy --fs-uuid --set=root 871f75b8\nset prefix=($root)/boot/grub\n"


@pytest.mark.parametrize(
    ("more", "command"),
    [
        pytest.param("blscfg\n", "blscfg", id="loader entries"),
        pytest.param("insmod blsuki\nuki\n", "insmod blsuki", id="unified images' module"),
        pytest.param("if [ -d /EFI/Linux ]; then uki; fi\n", "uki", id="unified images, on a condition"),
        pytest.param("  uki --path /EFI/Linux\n", "uki --path", id="unified images in a folder"),
        pytest.param("submenu 'more' {\n  blscfg\n}\n", "blscfg", id="in a submenu"),
        pytest.param(STUB + "configfile $prefix/grub.cfg\n", "configfile $prefix/grub.cfg", id="a stub"),
        pytest.param("if [ -e /x ]; then\n  configfile /x\nfi\n", "configfile /x", id="a stub on a condition"),
        pytest.param("source $prefix/entries.cfg\n", "source $prefix/entries.cfg", id="another file's entries"),
        pytest.param("linux /vmlinuz\nboot\n", "boot", id="boots at once"),
        pytest.param("function f {\n  configfile /x\n}\nf\n", "configfile /x", id="in a function"),
        pytest.param("menuentry 'other' {\n  if true; then {\n    true\n  }\n  fi\n}\nnormal\n", "normal", id="after an entry"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["before the entries", "after them"])
def test_with_entries_from_elsewhere_nothing_can_be_told(tmp_path: Path, more: str, command: str, is_first: bool) -> None:
    root = make_root(tmp_path, more + CONFIG if is_first else CONFIG + more)
    choice = bootloader.default_kernel(root)
    assert choice.kver == ""
    assert f"({command})" in choice.reason


@pytest.mark.parametrize(
    "more",
    [
        pytest.param("# uki\n", id="a comment"),
        pytest.param("menuentry 'uki; blscfg' {\n  chainloader /x.efi\n}\n", id="a title"),
        pytest.param("menuentry 'other' {\n  configfile /x\n}\n", id="in another entry"),
        pytest.param("submenu 'snapshots' {\n  configfile /x\n}\n", id="in another submenu"),
        pytest.param("echo configfile\n", id="an argument"),
    ],
)
def test_what_does_not_change_the_menu_does_not_matter(tmp_path: Path, more: str) -> None:
    assert bootloader.default_kernel(make_root(tmp_path, CONFIG + more)).kver == NEW


def test_a_default_entry_that_leads_elsewhere_is_unknown(tmp_path: Path) -> None:
    elsewhere = "menuentry 'other' {\n  configfile /x\n}\n"
    assert bootloader.default_kernel(make_root(tmp_path, elsewhere + CONFIG)).kver == ""


def test_custom_entries_from_elsewhere_are_unknown(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "boot/grub/custom.cfg").write_text("uki\n")
    assert bootloader.default_kernel(root).kver == ""


@pytest.mark.parametrize("name", ["grub.cfg", "custom.cfg", "grubenv"])
def test_a_file_that_cannot_be_read_is_unknown(tmp_path: Path, name: str) -> None:
    root = make_root(tmp_path, CONFIG if name != "grub.cfg" else None)
    (root / "boot/grub" / name).mkdir()
    choice = bootloader.default_kernel(root)
    assert choice.kver == ""
    assert f"boot/grub/{name} cannot be read" in choice.reason
