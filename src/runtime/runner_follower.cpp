#include "runtime/runner_follower.h"

#include <algorithm>

#include "base/check.h"
#include "runtime/remote_runner.h"

namespace fathom {
namespace {

Config config_of(const Config& whole, const EngineOrder& order) {
  Config c = first_layers(whole, order.layers, order.dense_layers, order.with_mtp);
  c.index_topk = order.index_topk;
  return c;
}

// Whether this process is the first of a group that process 0 has no rank of.
bool leads(const RankLayout& l) {
  const int first = l.first_process_of(l.group());
  return first > 0 && first == l.process;
}

// The setup as it was sent, with what lies in this process.
RunnerSetup setup_here(RunnerSetup setup, const Config& config, CommGroup* all) {
  setup.config = &config;
  setup.links.all = all;
  return setup;
}

}  // namespace

EngineOrder read_engine_order(MessageReader& m, ProcessLink& link) {
  EngineOrder o;
  o.with_mtp = m.get<bool>();
  o.index_topk = m.get<int>();
  o.layers = m.get<int>();
  o.dense_layers = m.get<int>();
  o.setup.keep_selection = m.get<bool>();
  o.setup.compute = read_plan(m, link.process());
  o.setup.compute.link = &link;
  return o;
}

RunnerFollower::RunnerFollower(const Config& config, const EngineOrder& order,
                               const RankWeights& weights, ProcessLink& link, CommGroup* all)
    : config_(config_of(config, order)),
      weights_(weights, config.dense_layers, config_),
      link_(link),
      answers_(leads(order.setup.compute.layout)),
      batch_(order.setup.compute.step_tokens, step_sequences(order.setup.compute.sequences),
             static_cast<int>(pages_for(order.setup.compute.context))),
      runner_(
          std::make_unique<RankedRunner>(setup_here(order.setup, config_, all), weights_.ranks())) {
  begin_answer();
  answer_.put_text(runner_->describe());
  answer_.put(runner_->cache_bytes());
  answer_.put(runner_->steps_at_once());
  link_.send(0, answer_.bytes());
}

void RunnerFollower::carry_out(Order order, MessageReader& m) {
  if (order == Order::launch) return launch(m);
  if (order == Order::finish) return finish();
  if (order == Order::draft) return draft(m);
  if (order == Order::read_page) return read_page(m);
  if (order == Order::copy_pages) {
    const int from = m.get<int>(), to = m.get<int>();
    return runner_->copy_pages(from, to, m.get<int>());
  }
  FATHOM_CHECK(order == Order::write_page, "order {} for a runner", static_cast<int>(order));
  const auto page = m.get<int32_t>();
  m.get_all(bytes_);
  runner_->write_page(page, bytes_.data());
}

// Before what is asked for an answer has the text of an error: none.
void RunnerFollower::begin_answer() {
  answer_.clear();
  answer_.put_text({});
}

void RunnerFollower::read_page(MessageReader& m) {
  const auto page = m.get<int32_t>();
  if (!answers_) return;
  bytes_.resize(static_cast<size_t>(runner_->page_bytes()));
  runner_->read_page(page, bytes_.data());
  begin_answer();
  answer_.put_all(std::span<const std::byte>(bytes_));
  link_.send(0, answer_.bytes());
}

void RunnerFollower::launch(MessageReader& m) {
  batch_.read_from(m);
  std::vector<Draw>& draws = draws_[launched_++ % draws_.size()];
  m.get_all(draws);
  m.get_all(carried_);
  runner_->launch(batch_, draws, carried_);
}

void RunnerFollower::finish() {
  runner_->finish(tokens_);
  const std::vector<Draw>& draws = draws_[finished_++ % draws_.size()];
  if (!answers_) return;
  begin_answer();
  write_results(answer_, *runner_, tokens_, draws, config_.layers);
  link_.send(0, answer_.bytes());
}

void RunnerFollower::draft(MessageReader& m) {
  const uint64_t runs = m.get<uint64_t>();
  runs_.resize(runs);
  contents_.resize(std::max<size_t>(contents_.size(), runs));
  for (size_t i = 0; i < runs; ++i) {
    DraftRun& run = runs_[i];
    RunContents& contents = contents_[i];
    run.first = m.get<int>();
    run.position = m.get<int64_t>();
    m.get_all(contents.next_ids);
    m.get_all(contents.pages);
    run.decode = m.get<bool>();
    run.wanted = m.get<int>();
    run.params = m.get<SamplingParams>();
    m.get_all(contents.drafts);
    run.next_ids = contents.next_ids;
    run.pages = contents.pages;
    run.drafts = &contents.drafts;
  }
  runner_->draft(runs_);
}

}  // namespace fathom
