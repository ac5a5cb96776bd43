#include "runtime/remote_runner.h"

#include <cstring>

#include "base/check.h"

namespace fathom {

RemoteRunner::RemoteRunner(const RunnerSetup& s)
    : layers_(s.config->layers),
      page_bytes_(static_cast<size_t>(kv_shape(*s.config, s.compute).bytes_per_page())),
      orders_(s.orders, Followers::of(s.compute.layout, s.compute.layout.group())) {
  orders_.open_engine(s);
  orders_.await_answers([&](MessageReader& answer) {
    const std::string text = answer.get_text();
    if (text_.empty()) text_ = text;
    cache_bytes_ += answer.get<int64_t>();
    steps_at_once_ = answer.get<int>();
  });
}

void RemoteRunner::launch(StepBatch& batch, std::span<const Draw> draws,
                          std::span<const CarriedId> carried) {
  orders_.launch(batch, draws, carried);
}

void RemoteRunner::finish(std::vector<Result<int32_t>>& tokens) {
  orders_.finish();
  orders_.await_answer([&](MessageReader& m) {
    tokens.clear();
    for (uint64_t n = m.get<uint64_t>(); n > 0; --n) {
      if (m.get<bool>()) {
        tokens.emplace_back(m.get<int32_t>());
      } else {
        const int status = m.get<int>();
        tokens.emplace_back(Failure{status, m.get_text()});
      }
    }
    logits_.clear();
    for (uint64_t n = m.get<uint64_t>(); n > 0; --n) {
      const int row = m.get<int>();
      m.get_all(logits_[row]);
    }
    picked_.clear();
    for (uint64_t n = m.get<uint64_t>(); n > 0; --n) {
      auto& layers = picked_[m.get<int>()];
      layers.resize(static_cast<size_t>(layers_));
      for (auto& picks : layers) m.get_all(picks);
    }
  });
}

void RemoteRunner::read_page(int32_t page, std::byte* to) {
  orders_.read_page(page);
  orders_.await_answer([&](MessageReader& m) {
    std::vector<std::byte> bytes;
    m.get_all(bytes);
    FATHOM_CHECK(bytes.size() == page_bytes_, "a page of {} bytes, {} expected", bytes.size(),
                 page_bytes_);
    std::memcpy(to, bytes.data(), bytes.size());
  });
}

void RemoteRunner::copy_pages(int from, int to, int count) { orders_.copy_pages(from, to, count); }

void RemoteRunner::write_page(int32_t page, const std::byte* from) {
  orders_.write_page(page, {from, page_bytes_});
}

void write_results(MessageWriter& m, const StepRunner& runner,
                   std::span<const Result<int32_t>> tokens, std::span<const Draw> draws,
                   int layers) {
  m.put<uint64_t>(tokens.size());
  for (const Result<int32_t>& token : tokens) {
    m.put(token.ok());
    if (token.ok()) {
      m.put(token.value());
    } else {
      m.put(token.failure().status);
      m.put_text(token.failure().message);
    }
  }
  const auto rows_with = [&](auto wanted) {
    std::vector<int> rows;
    for (size_t row = 0; row < draws.size(); ++row)
      if (wanted(draws[row])) rows.push_back(static_cast<int>(row));
    m.put<uint64_t>(rows.size());
    return rows;
  };
  for (int row : rows_with([](const Draw& d) { return d.logits || d.by_host; })) {
    m.put(row);
    m.put_all(runner.logits(row));
  }
  for (int row : rows_with([](const Draw& d) { return d.keep_selection; })) {
    m.put(row);
    for (int layer = 0; layer < layers; ++layer) m.put_all(runner.picked(row, layer));
  }
}

}  // namespace fathom
