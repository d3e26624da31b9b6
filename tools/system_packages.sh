#!/bin/sh
# Sees to the system's programs and libraries that pip can't bring.
#
#   tools/system_packages.sh run    what OpenCV (which ultralytics imports) and the screen
#                                   capture load
#   tools/system_packages.sh test   that, and the programs that the tests drive
#
# On Debian and its like, as root, what is missing is installed. Elsewhere it is only named: the
# program says what it can't do without it, and pytest lists each test that it skips.
set -u

wanted=${1:-run}
missing=""

# need LABEL PACKAGE: nothing found, so PACKAGE is wanted.
need() {
    missing="$missing $2"
    echo "missing: $1 (Debian package $2)"
}
program() { command -v "$1" >/dev/null 2>&1 || need "$1" "$2"; }
library() {
    # ldconfig lives in /sbin, which a person's PATH may lack.
    PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -q "$1" || need "$1" "$2"
}

case "$(uname -s)" in
Linux) ;;
*) exit 0 ;;
esac

library libGL.so.1 libgl1
library libglib-2.0.so.0 libglib2.0-0
library libxcb.so.1 libxcb1
library libxcb-randr.so.0 libxcb-randr0
library libxcb-render.so.0 libxcb-render0
library libxcb-shm.so.0 libxcb-shm0
library libxcb-xfixes.so.0 libxcb-xfixes0
if [ "$wanted" = test ]; then
    program cc gcc
    [ -e /usr/include/stdio.h ] || need "the C library's headers" libc6-dev
    program Xvfb xvfb
    program ffmpeg ffmpeg
    program strace strace
    command -v chromium-browser >/dev/null 2>&1 || program chromium chromium
fi

[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "Install them with this system's package manager."
elif [ "$(id -u)" != 0 ]; then
    echo "Install them:  sudo apt-get install$missing"
else
    echo "Installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || echo "apt-get update failed; trying with the lists that are here"
    # One by one: a package that a distribution names otherwise must not keep out the rest.
    for package in $missing; do
        apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
            echo "could not install $package"
    done
fi
exit 0
