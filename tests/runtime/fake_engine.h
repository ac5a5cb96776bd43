// An engine on a device that keeps books (fake_runner.h), and requests for it.
#pragma once

#include <gmock/gmock.h>

#include <algorithm>
#include <random>

#include "runtime/fake_runner.h"

namespace fathom {

using FakeMode = FakeRunner::Mode;

inline const char* name_of(FakeMode m) {
  return m == FakeMode::host ? "host" : m == FakeMode::eager ? "eager" : "lazy";
}

// An engine, and a view of its device.
struct Rig {
  explicit Rig(FakeMode mode, EngineOptions o = {}, int pages = 64, int64_t max_context = 512)
      : config(fake_config()) {
    o.compute.threads =
        std::max(1, o.compute.threads);  // all processors are shared with the other tests
    MemoryPlan plan;
    plan.context = max_context;
    plan.pages = pages;
    o.compute.mtp = o.compute.speculative_tokens > 0;
    auto device = std::make_unique<FakeRunner>(
        mode, pages, o.compute.sequences * (1 + o.compute.speculative_tokens) + prompt_rows(o));
    runner = device.get();
    engine = std::make_unique<Engine>(config, std::move(device), plan, o);
  }
  Config config;
  FakeRunner* runner = nullptr;
  std::unique_ptr<Engine> engine;
};

struct FakeAnswer {
  std::vector<int32_t> ids;
  Finish finish = Finish::none;
  std::string error;
};

inline Request fake_request(std::vector<int32_t> ids, int64_t max_new_tokens,
                            float temperature = 1) {
  Request r;
  r.ids = std::move(ids);
  r.max_new_tokens = max_new_tokens;
  r.sampling.temperature = temperature;
  r.sampling.seed = 7;
  return r;
}

inline std::vector<int32_t> fake_ids(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % kFakeVocab);
  return ids;
}

inline void collect_into(Request& r, FakeAnswer& a) {
  r.sink = [&a](const TokenEvent& e) {
    EXPECT_EQ(a.finish, Finish::none) << "an event after the last one";
    if (e.token >= 0) a.ids.push_back(e.token);
    a.finish = e.finish;
    a.error = e.error;
  };
}

// Every way in which a device may work.
class FakeEngineTest : public testing::TestWithParam<FakeMode> {};
inline auto all_modes() { return testing::Values(FakeMode::host, FakeMode::eager, FakeMode::lazy); }
inline std::string mode_name(const testing::TestParamInfo<FakeMode>& p) { return name_of(p.param); }

}  // namespace fathom
