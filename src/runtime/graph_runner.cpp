// Steps on a GPU. A step of decodes only is recorded as one CUDA graph per padded size and context
// limit and replayed: the host then launches once instead of a few dozen times a layer. Steps with
// prompts are launched kernel by kernel; they run long enough to hide that.
//
// A decode may be a run of several tokens, the last known one and its drafts. A recorded graph
// treats each token as a row of its own, so one graph serves every division of its tokens into
// runs.
//
// Two steps may be in flight. Each has its own slot for the host's inputs and outputs. The ids that
// one step draws become inputs of the next on the GPU, without the host.
//
// For each step the GPU gets the step's inputs and sampling parameters. It returns token ids and,
// for requests that ask for them, rows of logits and the positions that the indexer picked.
#include "runtime/step_runner.h"

#if defined(FATHOM_WITH_CUDA)
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/prim/launch.h"
#include "kernels/cuda/sample/sample.h"
#include "kernels/trace_ops.h"
#include "runtime/drafter.h"
#include "runtime/model_instance.h"

namespace fathom {
namespace {

class Graph {
 public:
  explicit Graph(cudaGraph_t graph) : graph_(graph) {
    FATHOM_CUDA(cudaGraphInstantiate(&exec_, graph_, 0));
  }
  ~Graph() {
    if (exec_) cudaGraphExecDestroy(exec_);
    cudaGraphDestroy(graph_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(cudaStream_t stream) { FATHOM_CUDA(cudaGraphLaunch(exec_, stream)); }

 private:
  cudaGraph_t graph_;
  cudaGraphExec_t exec_ = nullptr;
};

// Keeps, layer by layer and in the GPU's memory, what the indexer picks for the tokens of the logit
// rows. Its copies go to the ops' stream, so that they are recorded with the step.
class DevicePicks final : public TraceOps {
 public:
  DevicePicks(Ops& inner, cudaStream_t stream, int layers, int rows, int topk)
      : TraceOps(inner),
        stream_(stream),
        layers_(layers),
        rows_(rows),
        topk_(topk),
        picks_(static_cast<size_t>(layers) * static_cast<size_t>(rows) * row_bytes(),
               MemoryKind::device) {
    tokens_.reserve(static_cast<size_t>(rows));
  }

  // Called before each step. A recording copies the rows of all logit rows, since later replays may
  // ask for any of them. Which tokens those are may not change between replays.
  void watch(std::span<const int32_t> logit_rows) {
    tokens_.assign(logit_rows.begin(), logit_rows.end());
  }
  // Copies one row's picks to the host: [layers, topk].
  void fetch(int row, void* to) const {
    FATHOM_CUDA(cudaMemcpy2DAsync(to, row_bytes(), place(row, 0),
                                  static_cast<size_t>(rows_) * row_bytes(), row_bytes(),
                                  static_cast<size_t>(layers_), cudaMemcpyDeviceToHost, stream_));
  }
  size_t row_bytes() const { return static_cast<size_t>(topk_) * sizeof(int32_t); }

 private:
  void after(OpKind kind, std::span<const Tensor> results) override {
    if (kind != OpKind::index_topk || layer() >= layers_) return;
    const Tensor& picked = results[0];
    for (size_t row = 0; row < tokens_.size();) {
      size_t end = row + 1;  // one copy for neighbours: in a step of decodes that is all of them
      while (end < tokens_.size() && tokens_[end] == tokens_[end - 1] + 1) ++end;
      FATHOM_CUDA(cudaMemcpyAsync(place(static_cast<int>(row), layer()),
                                  picked.row<int32_t>(tokens_[row]), (end - row) * row_bytes(),
                                  cudaMemcpyDeviceToDevice, stream_));
      row = end;
    }
  }
  std::byte* place(int row, int layer) const {
    return picks_.data() +
           (static_cast<size_t>(layer) * static_cast<size_t>(rows_) + static_cast<size_t>(row)) *
               row_bytes();
  }

  cudaStream_t stream_;
  const int layers_, rows_, topk_;
  std::vector<int32_t> tokens_;
  Buffer picks_;  // [layers, rows, topk] i32
};

// A stream beside the ops' own: work on one does not wait for work on the other.
class Stream {
 public:
  Stream() { FATHOM_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { FATHOM_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// The host's inputs and outputs of one step, in pinned memory.
struct Slot {
  Slot(size_t draws_bytes, size_t ids_bytes, size_t picks_bytes)
      : draws(draws_bytes, MemoryKind::pinned),
        ids(ids_bytes, MemoryKind::pinned),
        picks(picks_bytes, MemoryKind::pinned) {}
  std::vector<Draw> asked;
  Buffer draws, ids, picks;  // picks: [rows, layers, topk], empty if selections are not kept
  Event done;
};

// The GPU's ops with what is specific to them: streams, recordings, ids that stay on the GPU.
CudaOps& cuda_ops(Ops& ops) {
  auto* cuda = dynamic_cast<CudaOps*>(&ops);
  FATHOM_CHECK(cuda, "steps are recorded with the GPU's own ops, not with {}", ops.describe());
  return *cuda;
}

class GraphRunner final : public StepRunner {
 public:
  GraphRunner(const RunnerSetup& s, ThreadPool& pool)
      : vocab_(s.config->vocab),
        step_tokens_(s.compute.step_tokens),
        rows_(runner_plan(s).logit_rows),
        layers_(s.config->layers),
        topk_(s.config->index_topk),
        padding_page_(s.compute.cache_pages),
        instance_(
            *s.config, *s.weights, runner_plan(s), pool, [&](Ops& ops) { return observer(s, ops); },
            s.shared_cache(), s.links),
        ops_(cuda_ops(instance_.device_ops())),
        stream_(static_cast<cudaStream_t>(ops_.stream())),
        logits_(static_cast<std::byte*>(instance_.logits(rows_).data)),
        host_logits_(static_cast<size_t>(rows_) * row_bytes(), MemoryKind::pinned),
        draws_(static_cast<size_t>(rows_) * sizeof(cuda::SampleRow), MemoryKind::device),
        ids_(static_cast<size_t>(rows_) * sizeof(int32_t), MemoryKind::device),
        slots_{Slot(draws_.size(), ids_.size(), picks_bytes()),
               Slot(draws_.size(), ids_.size(), picks_bytes())},
        none_(1, 1, 1),
        last_(1, 1, 1),
        again_(step_tokens_, step_sequences(s.compute.sequences),
               static_cast<int>(pages_for(s.compute.context))) {
    ops_.carry_from(reinterpret_cast<const int32_t*>(ids_.data()));
    launch_.stream = stream_;
    if (s.compute.speculative_tokens > 0) drafter_.emplace(instance_.plan());
  }

  ~GraphRunner() override {
    cudaStreamSynchronize(stream_);  // a step in flight still uses what is freed now
  }
  GraphRunner(const GraphRunner&) = delete;
  GraphRunner& operator=(const GraphRunner&) = delete;

  void launch(StepBatch& batch, std::span<const Draw> draws,
              std::span<const CarriedId> carried) override {
    FATHOM_CHECK(launched_ - finished_ < steps_at_once(), "{} steps are in flight already",
                 launched_ - finished_);
    const bool idle = batch.tokens() == 0;  // only where groups share experts
    int padded = idle ? 0 : std::min(padded_tokens(batch.tokens()), step_tokens_);
    const BatchView view = batch.view();
    bool decodes =
        static_cast<size_t>(batch.tokens()) == draws.size() && padded <= rows_ &&
        std::all_of(view.spans.begin(), view.spans.end(), [](const AttentionSpan& s) {
          return s.end - s.begin <= 1 + kMaxSpeculativeTokens && s.form == AttentionForm::absorbed;
        });
    if (Comm* all = instance_.all()) {
      const GroupStep agreed =
          all->agree({decodes ? padded : batch.tokens(), decodes}, instance_.plan().layout.tensor);
      decodes = agreed.padded;
      padded = static_cast<int>(agreed.rows);
    }
    if (decodes && !idle && batch.tokens() < padded) {
      for (int t = batch.tokens(); t < padded; ++t) batch.want_logits(t);
      batch.pad(padded, padding_page_);
    }
    last_recorded_ = decodes && drafter_;
    if (last_recorded_) last_ = batch;
    Slot& slot = slots_[launched_ % 2];
    stage(draws, slot);
    rows_of_ids_.assign(static_cast<size_t>(batch.tokens()), -1);
    for (const CarriedId& c : carried) rows_of_ids_[static_cast<size_t>(c.token)] = c.row;
    if (picks_) picks_->watch(batch.logit_rows());
    usual_time_ = true;
    NoAlloc guard("a step of the engine");
    if (idle && decodes)
      serve_others(padded);
    else if (decodes)
      replay(Kind::step, batch.inputs(), [&] { enqueue(batch); });
    else
      enqueue(batch);
    fetch(slot);
    FATHOM_CUDA(cudaEventRecord(slot.done.get(), stream_));
    ++launched_;
  }

  void finish(std::vector<Result<int32_t>>& tokens) override {
    FATHOM_CHECK(finished_ < launched_, "no step is in flight");
    const Slot& slot = slots_[finished_++ % 2];
    FATHOM_CUDA(cudaEventSynchronize(slot.done.get()));
    if (Comm* all = instance_.all()) all->check();  // or the step has ended without the others
    tokens.clear();
    const int32_t* ids = reinterpret_cast<const int32_t*>(slot.ids.data());
    for (size_t row = 0; row < slot.asked.size(); ++row) {
      const bool by_host = slot.asked[row].by_host;
      tokens.emplace_back(by_host ? -1 : ids[row]);
      if (!by_host && ids[row] == cuda::kBrokenLogits)
        tokens.back() = Result<int32_t>(
            Failure{500, "the model's logits are not numbers: weights or inputs are broken"});
    }
  }
  int steps_at_once() const override { return 2; }
  bool took_usual_time() const override { return usual_time_; }

  // After a recorded step the block's passes are recorded, too, and the host waits once, for all
  // drafts. Otherwise they are launched kernel by kernel.
  void draft(std::span<const DraftRun> runs) override {
    FATHOM_CHECK(drafter_ && launched_ == finished_, "drafts asked for with {} steps in flight",
                 launched_ - finished_);
    usual_time_ = true;
    const bool decodes = last_recorded_ && std::all_of(runs.begin(), runs.end(),
                                                       [](const DraftRun& r) { return r.decode; });
    if (decodes && !runs.empty()) return draft_recorded(runs);
    drafter_->run(instance_, runs, [&](Tensor logits, std::span<Drafter::Asked> asked) {
      std::vector<size_t> of_row;
      for (const Drafter::Asked& a : asked) of_row.push_back(a.run);
      stage_drafts(runs, of_row, 0, 0);
      sample(logits.row<float>(0), static_cast<int>(asked.size()));
      fetch_drafts(asked.size(), 0);
      FATHOM_CUDA(cudaStreamSynchronize(stream_));
      for (size_t i = 0; i < asked.size(); ++i) asked[i].draft = drafted(i);
    });
  }

  std::span<const float> logits(int row) const override {
    return {reinterpret_cast<const float*>(host_logits_.data()) + int64_t{row} * vocab_,
            static_cast<size_t>(vocab_)};
  }
  std::span<const int32_t> picked(int row, int layer) const override {
    FATHOM_CHECK(picks_ && finished_ > 0, "picks asked of a runner that keeps none");
    const int32_t* from =
        reinterpret_cast<const int32_t*>(slots_[(finished_ - 1) % 2].picks.data()) +
        (int64_t{row} * layers_ + layer) * topk_;
    return {from, std::find(from, from + topk_, -1)};
  }
  void copy_pages(int from, int to, int count) override {
    instance_.cache().copy_pages(from, to, count);
  }
  std::string describe() const override { return instance_.describe(); }
  int64_t cache_bytes() const override { return instance_.cache().bytes(); }

  // On a stream of its own, so that reading does not wait for the step in flight.
  void read_page(int32_t page, std::byte* to) override {
    for (const KvPool::Blocks& b : instance_.cache().blocks(page)) {
      if (b.bytes == 0) continue;
      const auto layers = static_cast<size_t>(b.layers);
      FATHOM_CUDA(cudaMemcpy2DAsync(to, b.bytes, b.at, b.pitch, b.bytes, layers,
                                    cudaMemcpyDeviceToHost, copies_.get()));
      to += b.bytes * layers;
    }
    FATHOM_CUDA(cudaStreamSynchronize(copies_.get()));
  }
  void write_page(int32_t page, const std::byte* from) override {
    for (const KvPool::Blocks& b : instance_.cache().blocks(page)) {
      if (b.bytes == 0) continue;
      const auto layers = static_cast<size_t>(b.layers);
      FATHOM_CUDA(cudaMemcpy2DAsync(b.at, b.pitch, from, b.bytes, b.bytes, layers,
                                    cudaMemcpyHostToDevice, stream_));
      from += b.bytes * layers;
    }
    FATHOM_CUDA(cudaStreamSynchronize(stream_));
  }

 private:
  // What a recording depends on, beside sizes that never change.
  enum class Kind : uint8_t { step, first_draft, next_draft, others };
  using Key = std::tuple<Kind, int, int, int64_t>;  // tokens, logit rows, context limit

  std::unique_ptr<Ops> observer(const RunnerSetup& s, Ops& ops) {
    if (!s.keep_selection) return nullptr;
    auto picks = std::make_unique<DevicePicks>(ops, static_cast<cudaStream_t>(ops.stream()),
                                               layers_, rows_, topk_);
    picks_ = picks.get();
    return picks;
  }

  size_t row_bytes() const { return static_cast<size_t>(vocab_) * sizeof(float); }

  size_t picks_bytes() const {
    return picks_ ? static_cast<size_t>(rows_) * static_cast<size_t>(layers_) * picks_->row_bytes()
                  : 0;
  }

  void stage(std::span<const Draw> draws, Slot& slot) {
    slot.asked.assign(draws.begin(), draws.end());
    auto* rows = reinterpret_cast<cuda::SampleRow*>(slot.draws.data());
    for (int i = 0; i < rows_; ++i) {
      rows[i] = {};
      rows[i].params.temperature = 0;
      if (static_cast<size_t>(i) >= draws.size()) continue;
      const Draw& d = draws[static_cast<size_t>(i)];
      if (d.by_host) continue;
      rows[i] = {d.params, static_cast<uint64_t>(d.position)};
    }
    FATHOM_CUDA(cudaMemcpyAsync(draws_.data(), slot.draws.data(), draws_.size(),
                                cudaMemcpyHostToDevice, stream_));
  }

  // Copies the results that the host asked for, after the step.
  void fetch(Slot& slot) {
    FATHOM_CUDA(cudaMemcpyAsync(slot.ids.data(), ids_.data(), slot.asked.size() * sizeof(int32_t),
                                cudaMemcpyDeviceToHost, stream_));
    for (size_t row = 0; row < slot.asked.size(); ++row) {
      // One buffer serves both slots: no step is launched while one whose logits the host reads is
      // in flight.
      if (slot.asked[row].logits)
        FATHOM_CUDA(cudaMemcpyAsync(host_logits_.data() + row * row_bytes(),
                                    logits_ + row * row_bytes(), row_bytes(),
                                    cudaMemcpyDeviceToHost, stream_));
      if (picks_ && slot.asked[row].keep_selection)
        picks_->fetch(static_cast<int>(row),
                      slot.picks.data() + row * static_cast<size_t>(layers_) * picks_->row_bytes());
    }
  }

  // Queues model and sampling on the stream: the part that is recorded.
  void enqueue(const StepBatch& batch) {
    const int rows = static_cast<int>(batch.logit_rows().size());
    ops_.carry_ids(rows_of_ids_);
    instance_.step(batch);
    sample(reinterpret_cast<const float*>(logits_), rows);
  }
  // This rank's experts for the other groups, which bring `rows` rows each.
  void serve_others(int rows) {
    if (rows == 0) return;  // they have none either
    replay(
        Key{Kind::others, rows, 0, 0}, [&] { instance_.step(none_); }, [] {});
  }
  void sample(const float* logits, int rows) {
    if (rows == 0) return;
    cuda::sample_tokens(logits, vocab_, rows, vocab_,
                        reinterpret_cast<const cuda::SampleRow*>(draws_.data()),
                        reinterpret_cast<int32_t*>(ids_.data()), launch_);
  }

  // Pass after pass: the drafts of one are the next one's inputs without passing through the
  // host. Rows of rejected drafts go through the first pass, too, so that it has the shape of the
  // step; what they leave in the cache lies behind what is read, and is overwritten. The further
  // passes have those runs alone that need another draft, which come first in order, and padding.
  void draft_recorded(std::span<const DraftRun> runs) {
    asking_.clear();
    for (size_t i = 0; i < runs.size(); ++i)
      if (runs[i].wanted > 0) asking_.push_back(i);
    std::stable_sort(asking_.begin(), asking_.end(),
                     [&](size_t a, size_t b) { return runs[a].wanted > runs[b].wanted; });
    size_t at = 0, count = asking_.size();
    for (int pass = 0; pass == 0 || count > 0; ++pass) {
      const std::span<const size_t> of_row = std::span(asking_).first(count);
      stage_drafts(runs, of_row, at, pass);
      if (pass == 0)
        first_draft(runs);
      else
        next_draft(runs, of_row, pass);
      fetch_drafts(count, at);
      at += count;
      while (count > 0 && runs[asking_[count - 1]].wanted <= pass + 1) --count;
    }
    FATHOM_CUDA(cudaStreamSynchronize(stream_));  // without drafts, too: the caller measures
    at = 0;
    count = asking_.size();
    for (int pass = 0; count > 0; ++pass) {
      for (size_t i = 0; i < count; ++i) {
        std::vector<int32_t>& drafts = *runs[asking_[i]].drafts;
        const int32_t id = drafted(at + i);
        // None behind one that is broken.
        if (id >= 0 && drafts.size() == static_cast<size_t>(pass)) drafts.push_back(id);
      }
      at += count;
      while (count > 0 && runs[asking_[count - 1]].wanted <= pass + 1) --count;
    }
  }

  // Counts are padded, so that few recordings serve all divisions into runs.
  void first_draft(std::span<const DraftRun> runs) {
    last_.want_no_logits();
    next_ids_.assign(static_cast<size_t>(last_.tokens()), 0);
    for (const DraftRun& r : runs)
      std::copy(r.next_ids.begin(), r.next_ids.end(), next_ids_.begin() + r.first);
    int token = 0;
    for (size_t i : asking_)
      last_.want_logits(token = runs[i].first + static_cast<int>(runs[i].next_ids.size()) - 1);
    // As many rows as there are runs, so that a recording serves any number of them that ask.
    const int rows = std::min(padded_tokens(static_cast<int>(runs.size())), last_.tokens());
    for (int row = static_cast<int>(asking_.size()); row > 0 && row < rows; ++row)
      last_.want_logits(token);
    rows_of_ids_.clear();
    pass(Kind::first_draft, last_, [&] { return instance_.mtp(last_, next_ids_); });
  }

  void next_draft(std::span<const DraftRun> runs, std::span<const size_t> of_row, int pass_number) {
    const int asked = static_cast<int>(of_row.size());
    again_.clear();
    const int32_t unknown = 0;  // the drafts just made are carried
    for (size_t i : of_row) {
      const DraftRun& r = runs[i];
      again_.add({&unknown, 1},
                 r.position + static_cast<int64_t>(r.next_ids.size()) + pass_number - 1, r.pages,
                 true, instance_.forms());
    }
    const int padded = std::min(padded_tokens(asked), step_tokens_);
    if (asked < padded) again_.pad(padded, padding_page_);
    for (int row = 0; row < padded; ++row) again_.want_logits(row);
    next_ids_.assign(static_cast<size_t>(padded), 0);
    rows_of_ids_.resize(of_row.size());
    std::iota(rows_of_ids_.begin(), rows_of_ids_.end(), 0);
    pass(Kind::next_draft, again_, [&] { return instance_.mtp_again(again_, next_ids_); });
  }

  // One pass of the block over `batch` with next_ids_, some of them carried, and drafts from its
  // logit rows.
  template <class Block>
  void pass(Kind kind, const StepBatch& batch, const Block& block) {
    StepInputs in = batch.inputs();
    in.ids = next_ids_.data();
    replay(kind, in, [&] {
      ops_.carry_ids(rows_of_ids_);
      const Tensor logits = block();
      if (logits.rows() > 0) sample(logits.row<float>(0), static_cast<int>(logits.rows()));
    });
  }

  // Drafts go through the slot of the step that is launched next. Row i of a pass is run
  // of_row[i]'s; the pass's rows begin at `at`.
  void stage_drafts(std::span<const DraftRun> runs, std::span<const size_t> of_row, size_t at,
                    int pass_number) {
    if (of_row.empty()) return;
    auto* rows = reinterpret_cast<cuda::SampleRow*>(slots_[launched_ % 2].draws.data()) + at;
    for (size_t i = 0; i < of_row.size(); ++i) {
      const DraftRun& run = runs[of_row[i]];
      rows[i] = {run.params, static_cast<uint64_t>(draft_position(run) + pass_number)};
    }
    FATHOM_CUDA(cudaMemcpyAsync(draws_.data(), rows, of_row.size() * sizeof(cuda::SampleRow),
                                cudaMemcpyHostToDevice, stream_));
  }
  void fetch_drafts(size_t rows, size_t at) {
    if (rows == 0) return;
    FATHOM_CUDA(cudaMemcpyAsync(slots_[launched_ % 2].ids.data() + at * sizeof(int32_t),
                                ids_.data(), rows * sizeof(int32_t), cudaMemcpyDeviceToHost,
                                stream_));
  }
  int32_t drafted(size_t at) const {
    const int32_t id = reinterpret_cast<const int32_t*>(slots_[launched_ % 2].ids.data())[at];
    return id == cuda::kBrokenLogits ? -1 : id;
  }

  // `work` queues what is recorded. The first of a kind runs without a recording: it loads kernels,
  // which must not happen while recording. The second is recorded.
  template <class Work>
  void replay(Kind kind, const StepInputs& in, const Work& work) {
    const int32_t* positions = in.batch.positions;
    const int tokens = in.batch.tokens;
    const Key key{
        kind, tokens, static_cast<int>(in.logit_rows.size()),
        ops_.context_limit(int64_t{*std::max_element(positions, positions + tokens)} + 1)};
    replay(key, work, [&] {
      ops_.carry_ids(rows_of_ids_);
      ops_.restage(in);
    });
  }
  // `bring`: queues the inputs of a recording.
  template <class Work, class Bring>
  void replay(const Key& key, const Work& work, const Bring& bring) {
    auto launch = [&](Graph& graph) {
      bring();
      graph.launch(stream_);
    };
    if (auto it = graphs_.find(key); it != graphs_.end()) return launch(it->second);
    usual_time_ = false;
    if (met_.insert(key).second) return work();
    ops_.synchronize();
    FATHOM_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream_, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    FATHOM_CUDA(cudaStreamEndCapture(stream_, &graph));
    launch(graphs_.try_emplace(key, graph).first->second);
  }

  const int64_t vocab_;
  const int step_tokens_, rows_, layers_, topk_;
  const int32_t padding_page_;
  DevicePicks* picks_ = nullptr;  // the instance's, where selections are kept
  ModelInstance instance_;
  CudaOps& ops_;  // the instance's
  cudaStream_t stream_;
  Stream copies_;      // for pages that no step writes any more
  std::byte* logits_;  // the instance's, [rows, vocab] f32; recordings hold the address
  Buffer host_logits_, draws_, ids_;
  std::array<Slot, 2> slots_;  // used in turn
  int64_t launched_ = 0, finished_ = 0;
  std::vector<int32_t> rows_of_ids_;  // of the step being launched: see CudaOps::carry_ids
  cuda::Launch launch_;
  const StepBatch none_;            // without tokens
  std::optional<Drafter> drafter_;  // with speculation, as what follows:
  bool usual_time_ = true;          // see took_usual_time()
  bool last_recorded_ = false;      // the step launched last was of decodes alone,
  StepBatch last_;                  // and this was its batch
  StepBatch again_;                 // of a further draft
  std::vector<int32_t> next_ids_;
  std::vector<size_t> asking_;  // runs with drafts, those with most first
  std::set<Key> met_;
  std::map<Key, Graph> graphs_;
};

}  // namespace

std::unique_ptr<StepRunner> make_graph_runner(const RunnerSetup& setup, ThreadPool& pool) {
  return std::make_unique<GraphRunner>(setup, pool);
}

}  // namespace fathom
#endif
