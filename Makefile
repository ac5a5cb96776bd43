# The commands of the README are `make demo`, `make serve` and `make test`; everything else is for developers.
BUILD ?= build
JOBS ?= $(shell nproc)

.PHONY: all demo serve test test-long setup configure build-all asan tsan fuzz bench format lint clean

all: setup                       ## build the program: build/bin/fathom
	@cmake -S . -B $(BUILD) -G Ninja -DFATHOM_TESTS=OFF > $(BUILD).configure.log 2>&1 || { cat $(BUILD).configure.log; exit 1; }
	@rm -f $(BUILD).configure.log
	@cmake --build $(BUILD) --target fathom -j $(JOBS)

setup:
	@scripts/setup.sh

demo: all                        ## convert the bundled model and talk to it
	@scripts/demo.sh $(BUILD)

serve: all                       ## serve the bundled model on http://127.0.0.1:8000
	@$(BUILD)/bin/fathom serve --ckpt-path models/small --keep-selection

test:                            ## everything CI runs
	@scripts/test.sh $(BUILD)

test-long:                       ## the tests that take minutes
	@scripts/test.sh $(BUILD) --long

tsan:                            ## engine and server tests under ThreadSanitizer
	@scripts/setup.sh --tests
	@cmake -S . -B $(BUILD)-tsan -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g1" -DFATHOM_SANITIZE=thread -DFATHOM_CUDA=OFF
	@cmake --build $(BUILD)-tsan -j $(JOBS) --target fathom test_runtime test_server test_text
	@cd $(BUILD)-tsan && ctest --output-on-failure -R '^(runtime|server|text)$$'

asan:                            ## all tests under AddressSanitizer and UBSan
	@scripts/setup.sh --tests
	@cmake -S . -B $(BUILD)-asan -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g1" -DFATHOM_SANITIZE=address,undefined
	@cmake --build $(BUILD)-asan -j $(JOBS)
	@cd $(BUILD)-asan && LSAN_OPTIONS=suppressions=$(CURDIR)/tests/lsan.supp ctest --output-on-failure -LE long

fuzz:                            ## libFuzzer targets in build-fuzz/bin
	@scripts/setup.sh --dev
	@CC=clang CXX=clang++ cmake -S . -B $(BUILD)-fuzz -G Ninja -DFATHOM_FUZZ=ON -DFATHOM_TESTS=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo
	@cmake --build $(BUILD)-fuzz -j $(JOBS)

format:
	@git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format -i

lint:                            ## clang-tidy and cppcheck
	@scripts/lint.sh $(BUILD)

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-fuzz $(BUILD)-lint
