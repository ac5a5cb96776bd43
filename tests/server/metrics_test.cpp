#include "server/metrics.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace fathom::server {
namespace {

bool has(const std::string& page, const std::string& line) {
  return ("\n" + page).find("\n" + line + "\n") != std::string::npos;
}

TEST(Metrics, ShowsTheEngineAsItIs) {
  Metrics metrics("m");
  EngineSnapshot e;
  e.running = 3;
  e.waiting = 2;
  e.pages = 8;
  e.free_pages = 2;
  e.prompt_tokens = 100;
  e.prefix_queries = 50;
  e.prefix_hits = 40;
  e.preemptions = 1;
  e.steps = 7;
  e.speculation = {30, 55, 40, {28, 12, 0, 0}};
  for (int twice = 0; twice < 2; ++twice) {  // rendering counts nothing
    const std::string page = metrics.render(e);
    EXPECT_TRUE(has(page, "vllm:num_requests_running{model_name=\"m\"} 3")) << page;
    EXPECT_TRUE(has(page, "vllm:num_requests_waiting{model_name=\"m\"} 2"));
    EXPECT_TRUE(has(page, "vllm:kv_cache_usage_perc{model_name=\"m\"} 0.75"));
    EXPECT_TRUE(has(page, "vllm:prompt_tokens_total{model_name=\"m\"} 100"));
    EXPECT_TRUE(has(page, "vllm:prefix_cache_queries_total{model_name=\"m\"} 50"));
    EXPECT_TRUE(has(page, "vllm:prefix_cache_hits_total{model_name=\"m\"} 40"));
    EXPECT_TRUE(has(page, "vllm:num_preemptions_total{model_name=\"m\"} 1"));
    EXPECT_TRUE(has(page, "vllm:spec_decode_num_drafts_total{model_name=\"m\"} 30"));
    EXPECT_TRUE(has(page, "vllm:spec_decode_num_draft_tokens_total{model_name=\"m\"} 55"));
    EXPECT_TRUE(has(page, "vllm:spec_decode_num_accepted_tokens_total{model_name=\"m\"} 40"));
    for (const char* at :
         {"{model_name=\"m\",position=\"0\"} 28", "{model_name=\"m\",position=\"1\"} 12"})
      EXPECT_TRUE(
          has(page, std::string("vllm:spec_decode_num_accepted_tokens_per_pos_total") + at));
    EXPECT_TRUE(has(page, "fathom:engine_up{model_name=\"m\"} 1"));
  }
  e.prompt_tokens = 90;  // an older snapshot than the last
  e.failed = true;
  const std::string page = metrics.render(e);
  EXPECT_TRUE(has(page, "vllm:prompt_tokens_total{model_name=\"m\"} 100"));
  EXPECT_TRUE(has(page, "fathom:engine_up{model_name=\"m\"} 0"));
}

// As vLLM labels the engines of its data parallelism.
TEST(Metrics, TellsEnginesApartWhereThereAreSeveral) {
  Metrics metrics("m", 2);
  EngineSnapshot e[2];
  e[0].running = 3;
  e[1].running = 1;
  e[1].pages = 4;
  e[1].prompt_tokens = 70;
  for (int twice = 0; twice < 2; ++twice) {
    const std::string page = metrics.render_all(e);
    EXPECT_TRUE(has(page, "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3")) << page;
    EXPECT_TRUE(has(page, "vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 1"));
    EXPECT_TRUE(has(page, "vllm:kv_cache_usage_perc{engine=\"1\",model_name=\"m\"} 1"));
    EXPECT_TRUE(has(page, "vllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 0"));
    EXPECT_TRUE(has(page, "vllm:prompt_tokens_total{engine=\"1\",model_name=\"m\"} 70"));
    EXPECT_TRUE(has(page, "fathom:engine_up{engine=\"1\",model_name=\"m\"} 1"));
  }
  EngineSnapshot all = e[0];
  all += e[1];
  EXPECT_EQ(all.running, 4);
  EXPECT_EQ(all.prompt_tokens, 70);
}

TEST(Metrics, CountsRequestsAndSteps) {
  Metrics metrics("m");
  EXPECT_TRUE(has(metrics.render({}),
                  "vllm:request_success_total{finished_reason=\"stop\",model_name=\"m\"} 0"));
  RequestStats stats;
  stats.prompt_tokens = 10;
  stats.generated_tokens = 20;
  for (const char* reason : {"stop", "tool_calls", "length", "cancelled", "error"})
    metrics.observe_end(reason, stats, 1.0);
  metrics.observe_first_token(0.02);
  metrics.observe_token_gap(0.002);
  metrics.observe_step({.tokens = 4, .decodes = 4, .sequences = 4, .seconds = 0.01});
  metrics.observe_step({.tokens = 64, .decodes = 0, .sequences = 1, .seconds = 0.1});
  metrics.observe_step({.tokens = 65, .decodes = 1, .sequences = 2, .seconds = 0.1});
  const std::string page = metrics.render({});
  const auto ended = [&](const std::string& reason, int n) {
    return has(page, "vllm:request_success_total{finished_reason=\"" + reason +
                         "\",model_name=\"m\"} " + std::to_string(n));
  };
  EXPECT_TRUE(ended("stop", 2) && ended("length", 1) && ended("abort", 1) && ended("error", 1));
  EXPECT_TRUE(has(page, "vllm:request_generation_tokens_sum{model_name=\"m\"} 100"));
  EXPECT_TRUE(has(page, "vllm:time_to_first_token_seconds_count{model_name=\"m\"} 1"));
  EXPECT_TRUE(has(page, "vllm:inter_token_latency_seconds_count{model_name=\"m\"} 1"));
  for (const char* kind : {"decode", "prefill", "mixed"})
    EXPECT_TRUE(has(
        page, std::string("fathom:step_seconds_count{kind=\"") + kind + "\",model_name=\"m\"} 1"))
        << kind;
}

TEST(Metrics, NamesNeedNoCare) {
  Metrics metrics("a \"quoted\"\nname\\");
  EXPECT_NE(metrics.render({}).find("model_name=\"a \\\"quoted\\\"\\nname\\\\\""),
            std::string::npos);
}

TEST(Metrics, MayBeUsedFromManyThreads) {
  Metrics metrics("m");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        metrics.count_http("/p", 200 + i % 3);
        metrics.observe_token_gap(0.001);
        metrics.observe_end("stop", {}, 0.1);
        EngineSnapshot e;
        e.steps = i;
        if (i % 50 == 0) metrics.render(e);
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_TRUE(
      has(metrics.render({}), "vllm:inter_token_latency_seconds_count{model_name=\"m\"} 800"));
}

}  // namespace
}  // namespace fathom::server
