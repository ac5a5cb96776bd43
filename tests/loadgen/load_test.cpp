// The load generator: what is sent when, what comes back, what is made of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "loadgen/load_client.h"
#include "loadgen/load_plan.h"
#include "loadgen/load_report.h"
#include "loadgen/sse_reader.h"
#include "server/http/http_server.h"
#include "support/scripted_service.h"

namespace fathom::loadgen {
namespace {

using namespace ::fathom::server;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(LoadPlan, IsTheSameForTheSameSeedOnly) {
  LoadOptions o;
  o.rate = 10;
  o.input_tokens = {20, 200};
  o.range_ratio = 0.3;
  const auto a = plan_load(o, 1.3), b = plan_load(o, 1.3);
  o.seed = 1;
  const auto c = plan_load(o, 1.3);
  ASSERT_EQ(a.size(), 100u);
  bool differs = false;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].prompt, b[i].prompt);
    EXPECT_EQ(a[i].at, b[i].at);
    differs |= a[i].prompt != c[i].prompt;
  }
  EXPECT_TRUE(differs);
}

TEST(LoadPlan, ArrivalsHaveTheAskedRate) {
  LoadOptions o;
  o.requests = 20000;
  o.rate = 50;
  for (double burstiness : {0.5, 1.0, 100.0}) {
    o.burstiness = burstiness;
    const auto plan = plan_load(o, 300);
    EXPECT_TRUE(std::is_sorted(plan.begin(), plan.end(),
                               [](const auto& x, const auto& y) { return x.at < y.at; }));
    // The mean gap of n gaps spreads by 1 / sqrt(n * burstiness): five times that is 5 %.
    EXPECT_NEAR(plan.back().at / (o.requests - 1), 1 / o.rate, 0.05 / o.rate);
  }
  o.rate = 0;
  EXPECT_EQ(plan_load(o, 300).back().at, 0);
}

TEST(LoadPlan, LengthsStayInTheirRange) {
  LoadOptions o;
  o.input_tokens = {100};
  o.output_tokens = 50;
  o.range_ratio = 0.2;
  for (const PlannedRequest& r : plan_load(o, 1)) {
    EXPECT_GE(r.output_tokens, 40);
    EXPECT_LE(r.output_tokens, 60);
    const auto words = 1 + std::count(r.prompt.begin(), r.prompt.end(), ' ');
    EXPECT_GE(words, 80);
    EXPECT_LE(words, 120);
  }
}

TEST(LoadPlan, PromptsShareAPrefix) {
  LoadOptions o;
  o.shared_prefix = 50;
  o.input_tokens = {60};
  const auto plan = plan_load(o, 1);
  const std::string prefix = random_words(50, o.seed);
  for (const PlannedRequest& r : plan) EXPECT_TRUE(r.prompt.starts_with(prefix));
  EXPECT_NE(plan[0].prompt, plan[1].prompt);
}

TEST(SseReader, ReadsEventsWhateverTheCuts) {
  const std::string stream =
      ": hello\r\ndata: one\r\n\r\nevent: x\ndata:two\ndata: lines\n\ndatabase: no\n\nid: 7\n\n"
      "data\n\ndata: [DONE]\n\ndata: never ended\n";
  const std::vector<std::string> expected = {"one", "two\nlines", "", "[DONE]"};
  for (size_t cut = 1; cut <= stream.size(); ++cut) {
    SseReader reader;
    std::vector<std::string> events;
    for (size_t at = 0; at < stream.size(); at += cut)
      for (std::string& e : reader.feed(std::string_view(stream).substr(at, cut)))
        events.push_back(std::move(e));
    EXPECT_EQ(events, expected) << "pieces of " << cut;
  }
}

TEST(LoadReport, PercentilesInterpolate) {
  std::vector<double> values(101);
  std::iota(values.begin(), values.end(), 0.0);
  const Spread s = spread_of(values);
  EXPECT_EQ(s.count, 101);
  EXPECT_DOUBLE_EQ(s.mean, 50);
  EXPECT_DOUBLE_EQ(s.p50, 50);
  EXPECT_DOUBLE_EQ(s.p95, 95);
  EXPECT_DOUBLE_EQ(s.max, 100);
  EXPECT_DOUBLE_EQ(spread_of({1, 2}).p50, 1.5);
  EXPECT_DOUBLE_EQ(spread_of({7}).p99, 7);
  EXPECT_EQ(spread_of({}).count, 0);
}

LoadResult answer(double sent, std::vector<double> events, double end) {
  LoadResult r;
  r.sent = sent;
  r.events = std::move(events);
  r.end = end;
  r.status = 200;
  r.prompt_tokens = 10;
  r.output_tokens = static_cast<int64_t>(r.events.size());
  return r;
}

TEST(LoadReport, CountsWhatWentWellAndWhatDidNot) {
  std::vector<LoadResult> results = {answer(1, {2, 2.5, 3}, 3), answer(1.5, {3}, 5)};
  LoadResult failed;
  failed.sent = 2;
  failed.end = 4;
  failed.error = "status 503: <busy & gone>";
  results.push_back(failed);
  const LoadReport r = report_of(results);
  EXPECT_EQ(r.completed, 2);
  EXPECT_EQ(r.failed, 1);
  EXPECT_DOUBLE_EQ(r.seconds, 4);
  EXPECT_EQ(r.prompt_tokens, 20);
  EXPECT_EQ(r.output_tokens, 4);
  EXPECT_DOUBLE_EQ(r.output_per_s(), 1);
  EXPECT_DOUBLE_EQ(r.first_token.max, 1.5);
  EXPECT_DOUBLE_EQ(r.between.mean, 0.5);
  EXPECT_EQ(r.per_token.count, 1);
  EXPECT_DOUBLE_EQ(r.per_token.mean, 0.5);
  EXPECT_DOUBLE_EQ(r.whole.max, 3.5);
  EXPECT_THAT(table_of(r), HasSubstr("failed 1 times: status 503"));

  const auto json = nlohmann::json::parse(json_of(r, {}, {}, results));
  EXPECT_EQ(json["completed"], 2);
  EXPECT_EQ(json["requests"].size(), 3u);
  EXPECT_DOUBLE_EQ(json["time_to_first_token"]["max"], 1.5);
  const std::string svg = svg_of(r, results);
  EXPECT_THAT(svg, HasSubstr("<polyline"));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  // Nothing at all came back: still a picture, a table and JSON.
  EXPECT_TRUE(svg_of(report_of({}), {}).ends_with("</svg>\n"));
  EXPECT_THAT(report_of({}).errors, IsEmpty());
}

TEST(LoadTarget, ReadsAddresses) {
  LoadTarget t = parse_target("http://127.0.0.1:8000");
  EXPECT_EQ(t.host, "127.0.0.1");
  EXPECT_EQ(t.port, 8000);
  EXPECT_EQ(t.prefix, "");
  t = parse_target("http://[::1]:9/proxy/v1/");
  EXPECT_EQ(t.host, "::1");
  EXPECT_EQ(t.port, 9);
  EXPECT_EQ(t.prefix, "/proxy");
  EXPECT_EQ(parse_target("http://host").port, 80);
  for (const char* bad : {"https://host", "host:80", "http://", "http://h:", "http://h:65536",
                          "http://h:8x", "http://[::1"})
    EXPECT_THROW(parse_target(bad), Error) << bad;
}

// A server whose answers are the test's, and the load that is put on it.
class LoadOn {
 public:
  explicit LoadOn(HttpHandler handler) : server_(options(), std::move(handler)) {
    server_.start();
    target.host = "127.0.0.1";
    target.port = server_.port();
  }
  std::vector<LoadResult> run(int requests = 1) const {
    LoadOptions o;
    o.requests = requests;
    o.output_tokens = 7;
    return run_load(target, plan_load(o, 1.3), [](int) {});
  }
  LoadTarget target;

 private:
  static HttpServerOptions options() {
    HttpServerOptions o;
    o.port = 0;
    return o;
  }
  HttpServer server_;
};

TEST(LoadClient, MeasuresAServiceOfOurs) {
  fathom::test::ScriptedService served;
  served.say("words that are said again and again");
  add_openai_routes(served.router, served.service);
  add_utility_routes(served.router, served.service);
  LoadOn load([&](auto request, auto reply) { served.router.handle(request, reply); });
  EXPECT_GT(measure_tokens_per_word(load.target), 1);
  for (const bool chat : {true, false}) {
    load.target.chat = chat;
    const auto results = load.run(5);
    const LoadReport report = report_of(results);
    EXPECT_EQ(report.completed, 5) << table_of(report);
    EXPECT_EQ(report.output_tokens, 35);
    EXPECT_EQ(report.events_counted, 0);
    EXPECT_GT(report.prompt_tokens, 5 * 300);
    EXPECT_EQ(report.first_token.count, 5);
  }
}

LoadResult result_of(const std::vector<std::string>& events, bool ends) {
  const LoadOn load([&](const auto&, const auto& reply) {
    reply->begin(200, "text/event-stream");
    for (const std::string& data : events) reply->write("data: " + data + "\n\n");
    if (ends) reply->end();
  });
  return load.run().at(0);
}

TEST(LoadClient, AnswersThatAreNotWholeHaveFailed) {
  const std::string text = R"({"choices":[{"delta":{"content":"a"},"finish_reason":null}]})";
  const std::string last = R"({"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]})";
  EXPECT_THAT(result_of({text, text}, false).error, HasSubstr("the stream broke off"));
  EXPECT_EQ(result_of({text, text}, true).error, "the stream broke off");
  EXPECT_EQ(result_of({}, true).error, "the answer has no events");
  EXPECT_EQ(result_of({text, "[DONE]"}, true).error, "");
  EXPECT_THAT(result_of({text, R"({"error":{"message":"gone"}})"}, true).error, HasSubstr("gone"));
  // A server that does not say how many tokens there were.
  const LoadResult counted = result_of({text, last}, true);
  EXPECT_EQ(counted.error, "");
  EXPECT_EQ(counted.output_tokens, 2);
  EXPECT_TRUE(counted.events_counted);
  const LoadReport report = report_of(std::span(&counted, 1));
  EXPECT_THAT(table_of(report), HasSubstr("events are counted"));
  EXPECT_EQ(nlohmann::json::parse(json_of(report, {}, {}, std::span(&counted, 1)))
                .at("answers_counted_by_events"),
            1);
}

TEST(LoadClient, AServerThatSaysNothingIsNotWaitedForLongerThanAllowed) {
  std::mutex mutex;
  std::vector<std::shared_ptr<HttpReply>> kept;  // with the server's end they are nobody's
  LoadOn load([&](const auto&, const auto& reply) {
    const std::lock_guard lock(mutex);
    kept.push_back(reply);
  });
  load.target.request_seconds = 0.2;
  EXPECT_THROW(measure_tokens_per_word(load.target), Error);
  EXPECT_NE(load.run().at(0).error, "");
}

TEST(LoadClient, NamesAnIpv6HostInBrackets) {
  HttpServerOptions o;
  o.port = 0;
  o.host = "::1";
  std::optional<HttpServer> server;
  std::string host;
  try {
    server.emplace(o, [&](const auto& request, const auto& reply) {
      host = request->header("host");
      reply->send(200, "application/json", R"({"count":800})");
    });
  } catch (const Error& e) {
    GTEST_SKIP() << "no IPv6 here: " << e.what();
  }
  server->start();
  LoadTarget target = parse_target("http://[::1]:" + std::to_string(server->port()));
  EXPECT_EQ(measure_tokens_per_word(target), 2);
  server->stop(0);
  EXPECT_EQ(host, "[::1]:" + std::to_string(target.port));
}

}  // namespace
}  // namespace fathom::loadgen
