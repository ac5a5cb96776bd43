#include "runtime/orders.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "runtime/cache_origin.h"

namespace fathom {
namespace {

void send_to_all(ProcessLink& link, const MessageWriter& message) {
  for (int p = 1; p < link.processes(); ++p) link.send(p, message.bytes());
}

// Answers of all others: an empty text, or why not.
template <class Read>
void await_answers(ProcessLink& link, const Read& read) {
  std::vector<std::byte> bytes;
  for (int p = 1; p < link.processes(); ++p) {
    link.receive(p, bytes);
    MessageReader answer(bytes);
    if (const std::string why = answer.get_text(); !why.empty()) fail("{}: {}", link.name(p), why);
    read(answer);
  }
}

}  // namespace

void write_plan(MessageWriter& m, const ComputePlan& p) {
  m.put(p.device);
  m.put(p.numerics);
  m.put(p.cache_format);
  m.put(p.attention);
  m.put_text(p.kernels);
  m.put(p.threads);
  m.put(p.batch_invariant);
  m.put(p.observed);
  m.put(p.mtp);
  m.put(p.speculative_tokens);
  m.put(p.step_tokens);
  m.put(p.context);
  m.put(p.sequences);
  m.put(p.index_budget);
  m.put(p.cache_pages);
  m.put(p.logit_rows);
  m.put(p.layout);
}

ComputePlan read_plan(MessageReader& m, int process) {
  ComputePlan p;
  p.device = m.get<DeviceKind>();
  p.numerics = m.get<Numerics>();
  p.cache_format = m.get<std::optional<KvFormat>>();
  p.attention = m.get<AttentionMode>();
  p.kernels = m.get_text();
  p.threads = m.get<int>();
  p.batch_invariant = m.get<bool>();
  p.observed = m.get<bool>();
  p.mtp = m.get<bool>();
  p.speculative_tokens = m.get<int>();
  p.step_tokens = m.get<int>();
  p.context = m.get<int64_t>();
  p.sequences = m.get<int>();
  p.index_budget = m.get<int64_t>();
  p.cache_pages = m.get<int>();
  p.logit_rows = m.get<int>();
  p.layout = m.get<RankLayout>();
  p.layout.process = process;
  return p;
}

Orders::Orders(ProcessLink* link) : link_(link && link->process() == 0 ? link : nullptr) {
  static uint32_t last_id = 0;  // of this process, whose thread that opens is one
  if (link_) id_ = ++last_id;
}

Orders::~Orders() {
  if (!open_ || !link_->failure().empty()) return;
  try {
    begin(Order::close);
    send();
  } catch (const Error&) {
    // Whoever does not hear it any more has ended.
  }
}

MessageWriter& Orders::begin(Order order) {
  message_.clear();
  message_.put(order);
  message_.put(id_);
  return message_;
}

void Orders::send() { send_to_all(*link_, message_); }

void Orders::open_engine(const RunnerSetup& s) {
  if (!link_) return;
  MessageWriter& m = begin(Order::open_engine);
  m.put(s.config->mtp_layers > 0);
  m.put(s.config->index_topk);
  m.put(s.keep_selection);
  write_plan(m, s.compute);
  send();
  open_ = true;
}

void Orders::open_model(const Config& config, const ComputePlan& plan) {
  if (!link_) return;
  MessageWriter& m = begin(Order::open_model);
  m.put(config.mtp_layers > 0);
  m.put(config.index_topk);
  write_plan(m, plan);
  send();
  open_ = true;
}

void Orders::wait_until_open() {
  if (link_) await_answers(*link_, [](MessageReader&) {});
}

void Orders::launch(const StepBatch& batch, std::span<const Draw> draws,
                    std::span<const CarriedId> carried) {
  if (!link_) return;
  MessageWriter& m = begin(Order::launch);
  batch.write_to(m);
  m.put_all(draws);
  m.put_all(carried);
  send();
}

void Orders::finish() {
  if (!link_) return;
  begin(Order::finish);
  send();
}

void Orders::draft(std::span<const DraftRun> runs) {
  if (!link_) return;
  MessageWriter& m = begin(Order::draft);
  m.put<uint64_t>(runs.size());
  for (const DraftRun& run : runs) {
    m.put(run.first);
    m.put(run.position);
    m.put_all(run.next_ids);
    m.put_all(run.pages);
    m.put(run.decode);
    m.put(run.drafts);
    m.put(run.params);
    m.put_all(std::span<const int32_t>(*run.guessed));
  }
  send();
}

void Orders::write_page(int32_t page, std::span<const std::byte> bytes) {
  if (!link_) return;
  MessageWriter& m = begin(Order::write_page);
  m.put(page);
  m.put_all(bytes);
  send();
}

void Orders::step(const StepBatch& batch) {
  if (!link_) return;
  batch.write_to(begin(Order::step));
  send();
}

void Orders::step_from(int first_layer, Tensor hidden, const StepBatch& batch) {
  if (!link_) return;
  FATHOM_CHECK(hidden.row_stride == hidden.row_size(), "rows of {}, {} apart", hidden.row_size(),
               hidden.row_stride);
  MessageWriter& m = begin(Order::step_from);
  m.put(first_layer);
  m.put(hidden.dtype);
  m.put(hidden.rows());
  m.put(hidden.row_size());
  m.put_all(std::span(static_cast<const std::byte*>(hidden.data),
                      static_cast<size_t>(hidden.size()) * size_of(hidden.dtype)));
  batch.write_to(m);
  send();
}

void Orders::mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
                 std::span<const int32_t> from) {
  if (!link_) return;
  MessageWriter& m = begin(Order::mtp);
  batch.write_to(m);
  m.put_all(next_ids);
  m.put_all(from);
  send();
}

void Orders::copy_pages(int from, int to, int count) {
  if (!link_) return;
  MessageWriter& m = begin(Order::copy_pages);
  m.put(from);
  m.put(to);
  m.put(count);
  send();
}

FollowersReport check_followers(ProcessLink& link, const std::string& folder,
                                const std::string& config_file, const ComputePlan& plan) {
  MessageWriter m;
  m.put(Order::check);
  m.put_text(folder);
  m.put_text(config_file);
  m.put(checkpoint_digest(folder, config_file));
  write_plan(m, plan);
  m.put_text(link.name(0));
  send_to_all(link, m);
  FollowersReport report;
  report.available = INT64_MAX;
  await_answers(link, [&](MessageReader& answer) {
    report.available = std::min(report.available, answer.get<int64_t>());
  });
  return report;
}

void place_followers(const Config& config, const ComputePlan& plan) {
  if (!plan.link || plan.link->process() != 0) return;
  MessageWriter m;
  m.put(Order::place);
  m.put(config.mtp_layers > 0);
  write_plan(m, plan);
  send_to_all(*plan.link, m);
}

void end_followers(ProcessLink& link) {
  if (!link.failure().empty()) return;
  MessageWriter m;
  m.put(Order::end);
  send_to_all(link, m);
}

}  // namespace fathom
