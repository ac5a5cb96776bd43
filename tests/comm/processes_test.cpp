// Ranks of several processes: their exchanges end with the bits of as many threads of one process,
// and the lifeline ends every wait when a process is lost. What stands for a process here is a
// thread with a link; mpirun itself is tried in tests/cli/mpirun_test.cpp.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <barrier>
#include <cstring>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/comm.h"
#include "comm/lifeline.h"
#include "comm/message.h"
#include "comm/process_link.h"
#include "numerics/bf16.h"

namespace fathom {
namespace {

// Where the links of all processes meet.
struct Hub {
  explicit Hub(int processes) : sent(static_cast<size_t>(processes)), meet(processes) {}
  std::vector<std::span<const std::span<const std::byte>>> sent;  // by process, for each other
  std::barrier<> meet;
};

class HubLink final : public ProcessLink {
 public:
  HubLink(Hub& hub, int process) : hub_(hub), process_(process) {}
  int process() const override { return process_; }
  int processes() const override { return static_cast<int>(hub_.sent.size()); }
  std::string name(int process) const override { return fmt::format("process {}", process); }
  void send(int, std::span<const std::byte>) override { FAIL(); }
  void receive(int, std::vector<std::byte>&) override { FAIL(); }
  void exchange(std::span<const std::span<const std::byte>> to,
                std::span<const std::span<std::byte>> from) override {
    const auto own = static_cast<size_t>(process_);
    hub_.sent[own] = to;
    hub_.meet.arrive_and_wait();
    for (size_t p = 0; p < from.size(); ++p) {
      if (p == own) continue;
      const std::span<const std::byte> theirs = hub_.sent[p][own];
      ASSERT_EQ(from[p].size(), theirs.size()) << "of process " << p;
      std::copy(theirs.begin(), theirs.end(), from[p].begin());
    }
    hub_.meet.arrive_and_wait();
  }
  std::unique_ptr<ProcessLink> part(int, int, int) override { return nullptr; }
  void set_timeout(double) override {}
  void fail(const std::string&) override {}
  std::string failure() const override { return {}; }
  void on_failure(std::function<void(const std::string&)>) override {}
  void end() override {}

 private:
  Hub& hub_;
  const int process_;
};

// Runs body(comm) on a thread a rank, the ranks dealt out to `processes`; 0: threads of one.
void on_ranks(int ranks, int processes, const std::function<void(Comm&)>& body) {
  Hub hub(std::max(1, processes));
  std::vector<std::unique_ptr<HubLink>> links;
  std::vector<std::shared_ptr<CommGroup>> groups;
  for (int p = 0; p < processes; ++p) {
    links.push_back(std::make_unique<HubLink>(hub, p));
    groups.push_back(make_process_group(*links.back(), ranks));
  }
  if (processes == 0) groups.push_back(make_thread_group(ranks));
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      const int here = ranks / static_cast<int>(groups.size());
      body(*groups[static_cast<size_t>(r / here)]->join(r, nullptr));
    });
  for (std::thread& t : threads) t.join();
}

using Bytes = std::vector<std::byte>;

// The tensor of each rank after an exchange of it, from the same beginnings.
std::vector<Bytes> after(int ranks, int processes, DType dtype, int64_t rows, int64_t width,
                         const std::function<void(Comm&, Tensor)>& exchange) {
  const int64_t stride = width + 3;
  std::vector<Bytes> all(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    Bytes& bytes = all[static_cast<size_t>(r)];
    bytes.resize(static_cast<size_t>(rows * stride) * size_of(dtype));
    std::mt19937 random(static_cast<unsigned>(r));
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows * stride; ++i) {
      const float v = normal(random) * std::exp2(static_cast<float>(i % 40));
      if (dtype == DType::bf16)
        reinterpret_cast<Bf16*>(bytes.data())[i] = to_bf16(v);
      else
        reinterpret_cast<float*>(bytes.data())[i] = v;
    }
  }
  on_ranks(ranks, processes, [&](Comm& comm) {
    const Tensor x(all[static_cast<size_t>(comm.rank())].data(), dtype, {rows, stride});
    // Twice: no call may disturb the one before.
    exchange(comm, x.columns(0, width));
    exchange(comm, x.columns(0, width));
  });
  return all;
}

void expect_as_threads(int ranks, int processes,
                       const std::function<void(Comm&, Tensor)>& exchange) {
  for (DType dtype : {DType::f32, DType::bf16})
    for (const auto& [rows, width] :
         {std::pair<int64_t, int64_t>{1, 1}, {1, 7168}, {5, 130}, {67, 64}, {259, 10}}) {
      SCOPED_TRACE(fmt::format("{} ranks of {} processes, [{}, {}] of {}", ranks, processes, rows,
                               width, name_of(dtype)));
      EXPECT_EQ(after(ranks, processes, dtype, rows, width, exchange),
                after(ranks, 0, dtype, rows, width, exchange));
    }
}

TEST(ProcessGroup, ExchangesEndWithTheBitsOfThreads) {
  for (const auto& [ranks, processes] : {std::pair{2, 2}, {4, 2}, {6, 3}, {3, 3}}) {
    expect_as_threads(ranks, processes, [](Comm& c, Tensor x) { c.all_reduce(x); });
    expect_as_threads(ranks, processes, [](Comm& c, Tensor x) { c.all_gather_columns(x); });
    expect_as_threads(ranks, processes, [](Comm& c, Tensor x) { c.all_gather_rows(x, 4); });
    expect_as_threads(ranks, processes, [](Comm& c, Tensor x) { c.all_gather_rows(x, 64); });
  }
}

// The two exchanges around the experts of a layer, of groups with `rows` each: what every rank has
// after each of two rounds.
std::vector<std::vector<float>> after_experts(int ranks, int processes, int group, DType dtype,
                                              const std::vector<int64_t>& rows) {
  constexpr int64_t kWidth = 70, kChosen = 3;
  int64_t all_rows = 0;
  for (int64_t n : rows) all_rows += n;
  std::vector<std::vector<float>> seen(static_cast<size_t>(ranks));
  on_ranks(ranks, processes, [&](Comm& comm) {
    const auto fill = [&](Bytes& bytes, int64_t n, int64_t width, unsigned seed) {
      bytes.resize(static_cast<size_t>(n * (width + 3)) * size_of(dtype));
      std::mt19937 random(seed);
      std::normal_distribution<float> normal;
      for (int64_t i = 0; i < n * (width + 3); ++i) {
        const float v = normal(random) * std::exp2(static_cast<float>(i % 40));
        if (dtype == DType::bf16)
          reinterpret_cast<Bf16*>(bytes.data())[i] = to_bf16(v);
        else
          reinterpret_cast<float*>(bytes.data())[i] = v;
      }
      return Tensor(bytes.data(), dtype, {n, width + 3}).columns(0, width);
    };
    std::vector<float>& saw = seen[static_cast<size_t>(comm.rank())];
    const auto note = [&](const Tensor& x) {
      for (int64_t r = 0; r < x.rows(); ++r)
        for (int64_t i = 0; i < x.row_size(); ++i)
          saw.push_back(x.dtype == DType::f32 ? x.row<float>(r)[i] : to_float(x.row<Bf16>(r)[i]));
    };
    for (unsigned round = 0; round < 2; ++round) {
      // In the second round the groups have each other's rows.
      const auto g = static_cast<unsigned>(comm.rank() / group);
      const int64_t n = round == 0 ? rows[g] : rows[rows.size() - 1 - g];
      Bytes hidden, sum, parts, gathered;
      std::vector<int32_t> ids(static_cast<size_t>(n * kChosen), static_cast<int32_t>(g)),
          all_ids(static_cast<size_t>(all_rows * kChosen));
      std::vector<float> weights(ids.size(), 0.5F * static_cast<float>(g)),
          all_weights(all_ids.size());
      // Alike in a group, as a sum leaves them; the shared expert's part is each rank's own.
      const ExpertRows own{fill(hidden, n, kWidth, 100 + g),
                           Tensor(ids.data(), DType::i32, {n, kChosen}),
                           Tensor(weights.data(), DType::f32, {n, kChosen})};
      const Tensor own_sum = fill(sum, n, kWidth, static_cast<unsigned>(200 + comm.rank()));
      const ExpertRows all{fill(gathered, all_rows, kWidth, 1),
                           Tensor(all_ids.data(), DType::i32, {all_rows, kChosen}),
                           Tensor(all_weights.data(), DType::f32, {all_rows, kChosen})};
      const ExpertSpread spread{group, 8, false};
      for (int64_t offset : comm.gather_expert_rows(all, own, spread))
        saw.push_back(static_cast<float>(offset));
      note(all.hidden);
      note(all.weights);
      saw.insert(saw.end(), all_ids.begin(), all_ids.end());
      comm.sum_expert_rows(own_sum,
                           fill(parts, all_rows, kWidth, static_cast<unsigned>(300 + comm.rank())),
                           own.ids, spread);
      note(own_sum);
    }
  });
  return seen;
}

// Whole groups in a process, and groups that lie in several; groups without rows.
TEST(ProcessGroup, GroupsExchangeTheirRowsWithTheBitsOfThreads) {
  struct Case {
    int ranks, processes, group;
    std::vector<int64_t> rows;
  };
  for (const Case& c :
       {Case{2, 2, 1, {3, 5}}, Case{2, 2, 1, {0, 4}}, Case{4, 2, 1, {1, 0, 0, 7}},
        Case{4, 2, 2, {9, 2}}, Case{4, 4, 2, {2, 0}}, Case{6, 2, 1, {1, 2, 3, 4, 5, 6}},
        Case{6, 3, 2, {130, 1, 0}}, Case{8, 4, 4, {5, 33}}, Case{8, 8, 4, {0, 0}}})
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(fmt::format("{} ranks of {} processes in groups of {}, {}", c.ranks, c.processes,
                               c.group, name_of(dtype)));
      EXPECT_EQ(after_experts(c.ranks, c.processes, c.group, dtype, c.rows),
                after_experts(c.ranks, 0, c.group, dtype, c.rows));
    }
}

TEST(MessageTest, GivesBackWhatWasPut) {
  MessageWriter w;
  w.put(int64_t{-5});
  w.put_all(std::span<const int32_t>());
  w.put_text("a word");
  const std::vector<float> values = {1, 2.5f};
  w.put_all(std::span(values));
  MessageReader r(w.bytes());
  EXPECT_EQ(r.get<int64_t>(), -5);
  std::vector<int32_t> none{7};
  r.get_all(none);
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(r.get_text(), "a word");
  std::vector<float> got;
  r.get_all(got);
  EXPECT_EQ(got, values);
  EXPECT_THROW(r.get<char>(), Error);
  MessageReader cut(w.bytes().first(w.bytes().size() - 1));
  cut.get<int64_t>();
  cut.get_all(none);
  cut.get_text();
  EXPECT_THROW(cut.get_all(got), Error);
}

// Lifelines of three processes, connected as LifelineDoor connects them.
struct Lines {
  Lines() {
    LifelineDoor door(true);
    std::vector<int> first, others(2);
    std::thread accepting([&] { first = door.accept(3, std::chrono::seconds(20)); });
    for (int p = 1; p < 3; ++p)
      others[static_cast<size_t>(p) - 1] = connect_lifeline(door.invitation(), p);
    accepting.join();
    const std::vector<std::string> names = {"process 0", "process 1", "process 2"};
    line.push_back(std::make_unique<Lifeline>(0, names, first));
    for (int p = 1; p < 3; ++p)
      line.push_back(std::make_unique<Lifeline>(
          p, names, std::vector<int>{others[static_cast<size_t>(p) - 1], -1, -1}));
  }
  // What a process finds out, once it has; empty if it finds nothing for long.
  std::string found_by(size_t process) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (line[process]->failure().empty() && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return line[process]->failure();
  }
  std::vector<std::unique_ptr<Lifeline>> line;
};

TEST(LifelineTest, AProcessThatEndsIsMissedByAllOthers) {
  Lines l;
  std::string called;
  std::mutex mutex;
  l.line[0]->on_failure([&](const std::string& why) {
    std::lock_guard lock(mutex);
    called += why;
  });
  EXPECT_NO_THROW(l.line[0]->check());
  l.line[1].reset();
  EXPECT_EQ(l.found_by(0), "process 1 has ended");
  EXPECT_EQ(l.found_by(2), "process 1 has ended");
  // The call follows what found_by() sees, on the lifeline's own thread.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  const auto known = [&] {
    std::lock_guard lock(mutex);
    return !called.empty();
  };
  while (!known() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  l.line[0]->on_failure({});
  EXPECT_EQ(called, "process 1 has ended");
  EXPECT_THROW(l.line[2]->check(), ExchangeEnded);
}

TEST(LifelineTest, AReasonReachesEverybodyAndTheFirstOneStays) {
  Lines l;
  l.line[2]->fail("rank 5 is out of memory");
  EXPECT_EQ(l.found_by(0), "rank 5 is out of memory");
  EXPECT_EQ(l.found_by(1), "rank 5 is out of memory");
  l.line[2].reset();
  l.line[0]->fail("later");
  EXPECT_EQ(l.line[0]->failure(), "rank 5 is out of memory");
}

TEST(LifelineTest, WhoPartsMayLeave) {
  Lines l;
  for (const auto& line : l.line) line->part();
  l.line[1].reset();
  l.line[0].reset();
  l.line[2]->await_hang_up(std::chrono::seconds(20));
  EXPECT_EQ(l.line[2]->failure(), "");
}

TEST(LifelineTest, SilenceCountsAsLost) {
  LifelineDoor door(true);
  std::vector<int> first;
  std::thread accepting([&] { first = door.accept(2, std::chrono::seconds(20)); });
  // Somebody who does not know the word is let in by nobody.
  std::string wrong = door.invitation();
  wrong[wrong.find(' ') + 1] ^= 1;
  const int stranger = connect_lifeline(wrong, 1);
  const int silent = connect_lifeline(door.invitation(), 1);
  accepting.join();
  Lifeline line(0, {"process 0", "process 1"}, first);
  line.set_timeout(0.2);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (line.failure().empty() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(line.failure(), "process 1 has not been heard of for 0.2 s");
  ::close(silent);
  ::close(stranger);
}

// Process 0 says how long it may be silent, and then says no more.
TEST(LifelineTest, TheOthersKnowHowLongProcess0MayBeSilent) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  Lifeline line(1, {"process 0", "process 1"}, {ends[1], -1});
  const std::string text = "0.2";
  const auto length = static_cast<uint32_t>(text.size());
  std::string message = "a";
  message.append(reinterpret_cast<const char*>(&length), sizeof(length));
  message += text;
  ASSERT_EQ(::write(ends[0], message.data(), message.size()), static_cast<ssize_t>(message.size()));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (line.failure().empty() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(line.failure(), "process 0 has not been heard of for 0.2 s");
  ::close(ends[0]);
}

}  // namespace
}  // namespace fathom
