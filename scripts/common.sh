# Sourced by scripts/demo and scripts/test: finds Python and a compiler, makes .venv with nox in it.
# Defines `python` (of .venv) and `run_nox`; changes to the checkout's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { printf '%s\n' "$*" >&2; }

# The first Python from 3.10 up; a plain python3 first, because that is the one people know.
find_python() {
  local name
  for name in python3 python3.12 python3.11 python3.13 python3.10 python; do
    if command -v "$name" >/dev/null 2>&1 &&
      "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

# Installs Debian packages if that needs no password; fails otherwise.
apt_install() {
  command -v apt-get >/dev/null 2>&1 || return 1
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || return 1
    sudo=(sudo -n)
  fi
  say "installing with apt-get: $*"
  "${sudo[@]}" apt-get update -qq >/dev/null 2>&1
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

has_compiler() { { command -v cc || command -v gcc || command -v clang; } && { command -v c++ || command -v g++ || command -v clang++; }; }
has_venv() { "$host_python" -c 'import venv, ensurepip'; }
has_headers() {
  "$host_python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'
}

# need CHECK WHAT PACKAGE...: what cannot be done without; installed if possible, else named.
need() {
  local check=$1 what=$2
  shift 2
  "$check" >/dev/null 2>&1 && return 0
  apt_install "$@" && "$check" >/dev/null 2>&1 && return 0
  say "missing: $what. Install it (Debian, Ubuntu: sudo apt install $*) and run this again."
  exit 1
}

# want CHECK WHAT PACKAGE...: what only some tests need; installed if possible, else named, and those tests are skipped.
want() {
  local check=$1 what=$2
  shift 2
  "$check" >/dev/null 2>&1 && return 0
  apt_install "$@" && "$check" >/dev/null 2>&1 && return 0
  say "without $what, some tests are skipped (Debian, Ubuntu: sudo apt install $*)"
}

# A compiler of another architecture, with its C library, and the emulator of its programs.
has_cross() { command -v "$1-gcc" && [ -e "$("$1-gcc" -print-file-name=libc.a)" ] && command -v "$2"; }
has_arm() { has_cross aarch64-linux-gnu qemu-aarch64 && has_cross arm-linux-gnueabihf qemu-arm; }
# What the wheel for aarch64 is built by and used in: Debian's packages for it are fetched by the test itself.
has_arm_device() {
  command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64-static && [ -e /usr/share/keyrings/debian-archive-keyring.gpg ]
}

# The compilers and emulators that firmware is tried with beside those from PyPI.
has_boards() {
  command -v arm-none-eabi-gcc && [ -e "$(arm-none-eabi-gcc -print-file-name=libc_nano.a)" ] &&
    command -v riscv64-unknown-elf-gcc && command -v qemu-system-arm && command -v qemu-system-riscv32
}
# Debian keeps both away from a user's PATH.
has_broker() { PATH="$PATH:/usr/sbin" command -v mosquitto; }
has_postgresql() { ls /usr/lib/postgresql/*/bin/initdb || command -v initdb; }

has_python() { host_python=$(find_python); }
need has_python "Python 3.10 to 3.13" python3 python3-venv python3-dev
# `need` runs its check in this shell, so host_python is set now.
need has_venv "the venv module of $host_python" python3-venv
need has_compiler "a C11 and C++17 compiler" gcc g++ libc6-dev
need has_headers "the C headers of $host_python" python3-dev

# A .venv of another Python, or half made, is made anew.
if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
  say "making .venv with $host_python"
  "$host_python" -m venv --clear .venv || exit 1
fi
python=.venv/bin/python
if ! "$python" -c 'import nox' 2>/dev/null; then
  "$python" -m pip install --quiet --quiet --disable-pip-version-check 'nox>=2024.10' || exit 1
fi

# Variables of the caller's own environments must not leak into ours.
run_nox() { env -u PYTHONPATH -u PYTHONHOME -u VIRTUAL_ENV "$python" -m nox "$@"; }
