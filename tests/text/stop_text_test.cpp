// Stop texts: found wherever the text is cut, never leaked in part, never a byte too many held
// back.
#include "text/stop_text.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>

namespace fathom {
namespace {

struct Passed {
  std::string text;
  std::string found;
  bool operator==(const Passed&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Passed& r) {
  return out << '"' << r.text << "\" by \"" << r.found << '"';
}

Passed passed(const std::vector<std::string>& stops, const std::vector<std::string>& chunks) {
  StopText stop(stops);
  Passed result;
  for (const std::string& chunk : chunks)
    if (stop.feed(chunk, result.text)) break;
  if (!stop.found()) stop.flush(result.text);
  result.found = stop.found_text();
  return result;
}

std::vector<std::string> bytes_of(const std::string& text) {
  std::vector<std::string> bytes;
  for (const char c : text) bytes.emplace_back(1, c);
  return bytes;
}

// What the rule says, by trying every end in turn.
Passed expected(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<std::string> best;
    for (const std::string& s : stops)
      if (!s.empty() && s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0 &&
          (!best || s.size() > best->size()))
        best = s;
    if (best) return {text.substr(0, end - best->size()), *best};
  }
  return {text, ""};
}

TEST(StopText, CutsInFrontOfTheFirstToBecomeComplete) {
  EXPECT_EQ(passed({"END"}, {"one END two"}), (Passed{"one ", "END"}));
  EXPECT_EQ(passed({"END"}, {"one E", "N", "D two"}), (Passed{"one ", "END"}));
  EXPECT_EQ(passed({"abcd", "bc"}, {"xabcd"}), (Passed{"xa", "bc"}));  // complete before the other
  EXPECT_EQ(passed({"bc", "abc"}, {"xabc"}), (Passed{"x", "abc"}));    // at once: the longest
  EXPECT_EQ(passed({"aab"}, {"aa", "aab"}), (Passed{"aa", "aab"}));    // begins inside a mismatch
  EXPECT_EQ(passed({"\n\n"}, {"a\n", "b\n", "\n"}), (Passed{"a\nb", "\n\n"}));
  EXPECT_EQ(passed({"END"}, {"EN"}), (Passed{"EN", ""}));  // held back, then let go
  EXPECT_EQ(passed({""}, {"text"}), (Passed{"text", ""}));
  EXPECT_EQ(passed({}, {"text"}), (Passed{"text", ""}));
  EXPECT_EQ(passed({"é"}, {"caf\xC3", "\xA9!"}), (Passed{"caf", "é"}));
}

TEST(StopText, HoldsBackNoMoreThanMayBegin) {
  StopText stop({"<stop>", "st"});
  std::string out;
  EXPECT_FALSE(stop.feed("a <s", out));
  EXPECT_EQ(out, "a ");
  EXPECT_EQ(stop.held(), 2u);
  EXPECT_FALSE(stop.feed("x", out));
  EXPECT_EQ(out, "a <sx");
  EXPECT_EQ(stop.held(), 0u);
  EXPECT_TRUE(stop.feed("<stop> and more", out));
  EXPECT_EQ(out, "a <sx<");
  EXPECT_EQ(stop.found_text(), "st");
  EXPECT_EQ(stop.dropped(), std::string("stop> and more").size());
  EXPECT_TRUE(stop.feed("yet more", out));
  EXPECT_EQ(out, "a <sx<");
  EXPECT_EQ(stop.dropped(), std::string("stop> and moreyet more").size());
}

TEST(StopText, NothingGoesOnBehindAFlush) {
  StopText stop({"END"});
  std::string out;
  EXPECT_FALSE(stop.feed("EN", out));
  stop.flush(out);
  EXPECT_FALSE(stop.feed("D", out));
  EXPECT_EQ(out, "END");
}

TEST(StopText, AnyCutGivesTheSame) {
  std::mt19937 random(7);
  const auto pick = [&](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(random);
  };
  const auto text_of = [&](size_t most) {
    std::string text;
    for (size_t n = pick(most + 1); n > 0; --n) text += static_cast<char>('a' + pick(3));
    return text;
  };
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops;
    for (size_t n = pick(4); n > 0; --n) stops.push_back(text_of(5));
    const std::string text = text_of(24);
    const Passed want = expected(stops, text);
    ASSERT_EQ(passed(stops, {text}), want) << text;
    ASSERT_EQ(passed(stops, bytes_of(text)), want) << text;
    std::vector<std::string> chunks;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + pick(4);
      chunks.push_back(text.substr(at, n));
      at += n;
    }
    ASSERT_EQ(passed(stops, chunks), want) << text;
  }
}

// A stop text made to be slow for a matcher that starts over.
TEST(StopText, HostileTextsCostOneStepAByte) {
  const std::string stop(1 << 20, 'a');
  StopText matcher({stop + "b"});
  std::string out;
  const std::string chunk(64, 'a');
  for (int i = 0; i < (1 << 20) / 64 * 2; ++i) ASSERT_FALSE(matcher.feed(chunk, out));
  EXPECT_EQ(out.size(), size_t{1} << 20);
  EXPECT_TRUE(matcher.feed("b", out));
}

}  // namespace
}  // namespace fathom
