# The commands of the README are `make demo`, `make serve` and `make test`; everything else is for developers.
BUILD ?= build
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 60
export NINJA_STATUS ?= [%f of %t, %e s] 

.PHONY: all demo serve test test-long setup asan tsan fuzz format lint clean

# The folder serves every command: what the program needs is compiled once, the tests are added to it.
all: setup                       ## build the program: build/bin/fathom
	@scripts/configure.sh $(BUILD)
	@cmake --build $(BUILD) --target fathom -j $(JOBS)

setup:
	@scripts/setup.sh

demo: all                        ## convert the bundled model and talk to it
	@scripts/demo.sh $(BUILD)

serve: all                       ## serve the bundled model on http://127.0.0.1:8000
	@$(BUILD)/bin/fathom serve --ckpt-path models/small --keep-selection

test:                            ## everything CI runs
	@scripts/test.sh $(BUILD)

test-long:                       ## the tests that take minutes, and the fuzz targets
	@scripts/test.sh $(BUILD) --long
	@scripts/fuzz.sh $(BUILD)-fuzz $(FUZZ_SECONDS)

tsan:                            ## engine and server tests under ThreadSanitizer
	@scripts/setup.sh --tests
	@cmake -S . -B $(BUILD)-tsan -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g1" -DFATHOM_SANITIZE=thread -DFATHOM_CUDA=OFF -DFATHOM_UNITY=ON
	@cmake --build $(BUILD)-tsan -j $(JOBS) --target fathom test_runtime test_server test_text
	@cd $(BUILD)-tsan && ctest --output-on-failure -R '^(runtime|server|text)$$'

asan:                            ## all tests under AddressSanitizer and UBSan
	@scripts/setup.sh --tests
	@cmake -S . -B $(BUILD)-asan -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g1" -DFATHOM_SANITIZE=address,undefined -DFATHOM_CUDA=OFF -DFATHOM_UNITY=ON
	@cmake --build $(BUILD)-asan -j $(JOBS)
	@cd $(BUILD)-asan && LSAN_OPTIONS=suppressions=$(CURDIR)/tests/lsan.supp ctest --output-on-failure -LE long

fuzz:                            ## fuzz targets with clang, FUZZ_SECONDS each
	@scripts/fuzz.sh $(BUILD)-fuzz $(FUZZ_SECONDS)

format:
	@git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format -i

lint:                            ## layout, layers, clang-tidy and cppcheck
	@scripts/lint.sh $(BUILD)

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-fuzz $(BUILD)-lint
