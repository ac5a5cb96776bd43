#include "runtime/orders.h"

#include <algorithm>
#include <atomic>

#include "base/check.h"
#include "base/error.h"
#include "runtime/cache_origin.h"
#include "runtime/channels.h"

namespace fathom {
namespace {

void send_to(ProcessLink& link, const Followers& followers, const MessageWriter& message) {
  for (int p = followers.first; p < followers.end; ++p) link.send(p, message.bytes());
}
Followers all_of(const ProcessLink& link) { return {1, link.processes()}; }

// Answers of followers: an empty text, or why not.
template <class Read>
void read_answers(ProcessLink& link, const Followers& followers, const Read& read) {
  std::vector<std::byte> bytes;
  for (int p = followers.first; p < followers.end; ++p) {
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
  m.put(p.exchange);
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
  p.exchange = m.get<GpuExchange>();
  p.layout = m.get<RankLayout>();
  p.layout.process = process;
  return p;
}

Orders::Orders(ProcessLink* link, Followers followers)
    : link_(link && link->process() == 0 && followers.first < followers.end ? link : nullptr),
      followers_(followers) {
  static std::atomic<uint32_t> last_id = 0;
  if (link_) id_ = ++last_id;
}

Orders::~Orders() {
  if (!open_ || !link_->failure().empty()) return;
  try {
    send(Order::close, [](MessageWriter&) {});
  } catch (const Error&) {
    // Whoever does not hear it any more has ended.
  }
}

template <class Fill>
void Orders::send(Order order, const Fill& fill) {
  if (!link_) return;
  message_.clear();
  message_.put(order);
  message_.put(id_);
  fill(message_);
  send_to(*link_, followers_, message_);
}

void Orders::open_engine(const RunnerSetup& s) {
  send(Order::open_engine, [&](MessageWriter& m) {
    m.put(s.config->mtp_layers > 0);
    m.put(s.config->index_topk);
    m.put(s.config->layers);
    m.put(s.config->dense_layers);
    m.put(s.keep_selection);
    write_plan(m, s.compute);
  });
  open_ = link_ != nullptr;
}

void Orders::open_model(const Config& config, const ComputePlan& plan, bool record) {
  send(Order::open_model, [&](MessageWriter& m) {
    m.put(config.mtp_layers > 0);
    m.put(config.index_topk);
    m.put(record);
    write_plan(m, plan);
  });
  open_ = link_ != nullptr;
}

void Orders::await_answers(const ReadAnswer& read) {
  if (!link_) return;
  read_answers(*link_, followers_, [&](MessageReader& answer) {
    if (read) read(answer);
  });
}

void Orders::await_answer(const ReadAnswer& read) {
  if (link_) read_answers(*link_, {followers_.first, followers_.first + 1}, read);
}

void Orders::launch(const StepBatch& batch, std::span<const Draw> draws,
                    std::span<const CarriedId> carried) {
  send(Order::launch, [&](MessageWriter& m) {
    batch.write_to(m);
    m.put_all(draws);
    m.put_all(carried);
  });
}

void Orders::finish() {
  send(Order::finish, [](MessageWriter&) {});
}

void Orders::draft(std::span<const DraftRun> runs) {
  send(Order::draft, [&](MessageWriter& m) {
    m.put<uint64_t>(runs.size());
    for (const DraftRun& run : runs) {
      m.put(run.first);
      m.put(run.position);
      m.put_all(run.next_ids);
      m.put_all(run.pages);
      m.put(run.decode);
      m.put(run.wanted);
      m.put(run.params);
      m.put_all(std::span<const int32_t>(*run.drafts));
    }
  });
}

void Orders::write_page(int32_t page, std::span<const std::byte> bytes) {
  send(Order::write_page, [&](MessageWriter& m) {
    m.put(page);
    m.put_all(bytes);
  });
}

void Orders::read_page(int32_t page) {
  send(Order::read_page, [&](MessageWriter& m) { m.put(page); });
}

void Orders::step(std::span<const StepBatch> batches) {
  send(Order::step, [&](MessageWriter& m) {
    m.put<uint64_t>(batches.size());
    for (const StepBatch& batch : batches) batch.write_to(m);
  });
}

void Orders::step_from(int first_layer, Tensor hidden, const StepBatch& batch) {
  FATHOM_CHECK(hidden.row_stride == hidden.row_size(), "rows of {}, {} apart", hidden.row_size(),
               hidden.row_stride);
  send(Order::step_from, [&](MessageWriter& m) {
    m.put(first_layer);
    m.put(hidden.dtype);
    m.put(hidden.rows());
    m.put(hidden.row_size());
    m.put_all(std::span(static_cast<const std::byte*>(hidden.data),
                        static_cast<size_t>(hidden.size()) * size_of(hidden.dtype)));
    batch.write_to(m);
  });
}

void Orders::mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
                 std::span<const int32_t> from) {
  send(Order::mtp, [&](MessageWriter& m) {
    batch.write_to(m);
    m.put_all(next_ids);
    m.put_all(from);
  });
}

void Orders::copy_pages(int from, int to, int count) {
  send(Order::copy_pages, [&](MessageWriter& m) {
    m.put(from);
    m.put(to);
    m.put(count);
  });
}

void Orders::ask_for_records() {
  send(Order::records, [](MessageWriter&) {});
}

GroupChannel::GroupChannel(ProcessLink& link, const RankLayout& layout, int group)
    : link_(link.part(0, link.processes(), orders_channel(group))),
      followers_(Followers::of(layout, group)) {}

GroupChannel::~GroupChannel() {
  if (!link_->failure().empty()) return;
  MessageWriter m;
  m.put(Order::leave);
  try {
    send_to(*link_, followers_, m);
  } catch (const Error&) {
    // Whoever does not hear it any more has ended.
  }
}

FollowersReport check_followers(ProcessLink& link, const std::string& folder,
                                const std::string& config_file, const ComputePlan& plan) {
  MessageWriter m;
  m.put(Order::check);
  m.put_text(folder);
  m.put_text(config_file);
  m.put(folder.empty() ? PageKey{} : checkpoint_digest(folder, config_file));
  write_plan(m, plan);
  m.put_text(link.name(0));
  send_to(link, all_of(link), m);
  FollowersReport report;
  report.available = INT64_MAX;
  read_answers(link, all_of(link), [&](MessageReader& answer) {
    report.available = std::min(report.available, answer.get<int64_t>());
  });
  return report;
}

void use_random_model(ProcessLink& link, const std::string& config, uint64_t seed) {
  MessageWriter m;
  m.put(Order::use_random);
  m.put_text(config);
  m.put(seed);
  send_to(link, all_of(link), m);
}

void place_followers(const Config& config, const ComputePlan& plan) {
  if (!plan.link || plan.link->process() != 0) return;
  MessageWriter m;
  m.put(Order::place);
  m.put(config.mtp_layers > 0);
  write_plan(m, plan);
  send_to(*plan.link, all_of(*plan.link), m);
}

void open_groups(const Config& config, const ComputePlan& plan) {
  if (!plan.link) return;
  MessageWriter m;
  m.put(Order::open_groups);
  m.put(config.mtp_layers > 0);
  write_plan(m, plan);
  send_to(*plan.link, all_of(*plan.link), m);
}

void end_followers(ProcessLink& link) {
  if (!link.failure().empty()) return;
  MessageWriter m;
  m.put(Order::end);
  send_to(link, all_of(link), m);
}

}  // namespace fathom
