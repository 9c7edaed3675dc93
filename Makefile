# The few commands one needs; the build itself is CMake's (CMakeLists.txt, CMakePresets.json).
#
#   make quickstart   install what is missing, build, run the whole method once on this machine's CPU; the run ends by
#                     saying where its report is and how to talk to the model
#   make install      programs, library, man pages, completion, conf and docs below PREFIX (/usr/local); DESTDIR for packages
#   make uninstall    removes what the last `make install` put there
#   make test         everything CI runs: the tests, source checks, sanitizers, fuzz corpora, the CUDA build if nvcc is there
#   make gates        what takes too long for every change: the tiny world with seeds 0 to 4 and every control, the whole
#                     token MDP
#   make cuda         the CUDA build, and what can be said of it without a GPU
#   make test-peers   the same program beside transformers, llama.cpp and others, in a virtual environment
#   make fuzz         every fuzz target for FUZZ_SECONDS (60) under sanitizers; what it finds is left in build/fuzz
#   make format       clang-format over sources; headers are set by hand, their columns of comments are documentation
#   make clean        removes build/ and out/

JOBS := $(shell nproc 2>/dev/null || echo 2)
TSAN_TESTS := test_base_pool test_base_log test_data_loader test_cai_pipeline test_dist_supervise test_launch_faults test_dist_comm test_dist_tree test_dist_train
empty :=
space := $(empty) $(empty)
SOURCES := $(shell git ls-files '*.c' '*.cu' '*.cc')
NVCC := $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))

.PHONY: quickstart install uninstall build test gates test-peers peers check asan tsan cuda fuzz format clean setup

# ctest of preset $(1) with arguments $(2): as many tests that compute as there are cores, and beside them some that wait
# (CMakeLists.txt says which).
define ctest
@printf '{"version":{"major":1,"minor":0},"local":[{"cores":[{"id":"0","slots":%d}]}]}' $$(( $(JOBS) > 2 ? $(JOBS) : 2 )) > build/$(1)/cores.json
ctest --preset $(1) --resource-spec-file $(CURDIR)/build/$(1)/cores.json -j $$(($(JOBS) + 4)) $(2)
endef

build: setup
	cmake --preset release
	cmake --build build/release -j $(JOBS) --target dikast dikast-gold dikast_shared

setup:
	@sh tools/setup.sh

quickstart: build
	build/release/dikast run conf/quickstart.yaml

PREFIX := /usr/local
install: build
	cmake --install build/release --prefix $(PREFIX)

uninstall:
	cmake -DMANIFEST=build/release/install_manifest.txt -P cmake/uninstall.cmake

test:
	@sh tools/setup.sh clang-format python3-venv libopenmpi-dev openmpi-bin
	cmake --preset dev
	cmake --build build/dev -j $(JOBS)
	$(call ctest,dev,-LE nightly)
	$(MAKE) -j2 --output-sync=target peers check
	$(MAKE) asan tsan cuda

gates: build
	cmake --preset dev
	cmake --build build/dev -j $(JOBS) --target test_train_token_mdp
	ctest --preset dev -L nightly --no-tests=error
	sh tests/world_gates.sh build/release/dikast out/gates all 0 1 2 3 4

# Beside PyTorch, transformers and llama.cpp: some gigabytes of packages, some minutes.
test-peers:
	@sh tools/setup.sh python3-venv
	cmake --preset dev
	cmake --build build/dev -j $(JOBS)
	sh tests/peers/run.sh heavy build/dev

# After the dev build, as check.
peers:
	sh tests/peers/run.sh light build/dev

# After the dev build: the writable globals are read from its libraries.
check:
	echo $(SOURCES) | xargs -P $(JOBS) -n 32 clang-format --dry-run -Werror
	sh tools/check_layers
	sh tools/check_sources build/dev

# Without whole models on emulated GPU kernels (twelve minutes, and the kernels have their own tests), nor the token MDP (four, and
# every method it trains with has its own).
asan:
	cmake --preset asan
	cmake --build build/asan -j $(JOBS)
	$(call ctest,asan,-L fast -E '^(test_engine_cuda|token_mdp_quick)$$')

tsan:
	cmake --preset tsan
	cmake --build build/tsan -j $(JOBS) --target $(TSAN_TESTS)
	$(call ctest,tsan,-R '^($(subst $(space),|,$(TSAN_TESTS)))$$' --no-tests=error)

cuda:
ifeq ($(NVCC),)
	@echo "cuda: skipped: no nvcc in PATH, CUDA_HOME or /usr/local/cuda"
else
	cmake --preset cuda -DCMAKE_CUDA_COMPILER=$(NVCC)
	cmake --build build/cuda -j $(JOBS) --target dikast dikast-gold test_ops_cuda test_engine_cuda test_tensor_cuda_host
	sh tools/check_cuda build/cuda
endif

FUZZ_SECONDS := 60
fuzz:
	@sh tools/setup.sh clang
	cmake --preset fuzz
	cmake --build build/fuzz -j $(JOBS) --target fuzzers
	sh tools/fuzz build/fuzz $(FUZZ_SECONDS)

format:
	clang-format -i $(SOURCES)

clean:
	rm -rf build out
