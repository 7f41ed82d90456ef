# SPDX-License-Identifier: MIT
# A thin front to CMake: installs what is missing, builds, runs and checks. The presets are in CMakePresets.json.
#
#   make              installs what is missing of Debian's packages, and builds everything in build/
#   make run          the example programs on their built-in input
#   make check        the quick tier of all checks         make check-full   the long ones too
#   make coverage     what of the library the tests run, file by file
#   make bench        the benchmarks
#   make install      to PREFIX (default /usr/local), below DESTDIR if that is given
#   make format       clang-format over all sources        make clean        removes build/

PREFIX ?= /usr/local
JOBS ?= $(shell nproc)

# The builds below are no part of this make's jobs.
cmake := env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL cmake
compile := $(cmake) --build --preset release --parallel $(JOBS)

.PHONY: all configure build run check check-full coverage bench install format clean
all: build

configure:
	@tools/install-deps build
	@tools/install-deps --optional examples
	@$(cmake) --preset release >/dev/null

build: configure
	@$(compile)

run:
	@tools/install-deps build examples
	@$(MAKE) --no-print-directory configure
	@$(compile) --target examples
	@tools/run-examples build

check check-full:
	@tools/install-deps build examples check
	@JOBS=$(JOBS) tools/check $(if $(filter check-full,$@),--full)

coverage:
	@tools/install-deps build coverage
	@JOBS=$(JOBS) tools/coverage

bench:
	@tools/install-deps --optional bench
	@$(MAKE) --no-print-directory configure
	@$(compile) --target bench
	@bench/run build/bench

install: configure
	@$(compile) --target tandem tandem_static
	$(cmake) --install build --prefix $(PREFIX)
	@test -n "$(DESTDIR)" || test "$$(id -u)" != 0 || PATH="$$PATH:/sbin" ldconfig

format:
	@tools/install-deps format
	git ls-files '*.c' '*.h' '*.cpp' | xargs clang-format -i

clean:
	rm -rf build
