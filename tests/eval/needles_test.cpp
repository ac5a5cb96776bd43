#include "eval/needles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "eval/filler.h"
#include "eval/small_tokenizer.h"

namespace fathom::eval {
namespace {

using test::small_tokenizer;
using testing::HasSubstr;

Needles needles(NeedleOptions o, int64_t max_context = 8192) {
  return Needles("needles", small_tokenizer(), Encoding::v31, o, max_context);
}

std::string fact_of(const Ask& ask) {
  return small_tokenizer().decode(std::span(ask.ids).subspan(
      static_cast<size_t>(ask.watched.begin), static_cast<size_t>(ask.watched.size())));
}

TEST(Needles, PromptsHaveTheirLengthAndTheFactItsDepth) {
  NeedleOptions o;
  o.lengths = {64, 300, 1000};
  o.depths = {0, 0.5, 1};
  o.count = 2;
  const Needles task = needles(o);
  ASSERT_EQ(task.size(), 18u);
  std::set<std::string> facts;
  for (size_t i = 0; i < task.size(); ++i) {
    const Ask ask = task.asks(i)[0];
    const auto n = static_cast<int64_t>(ask.ids.size());
    const int64_t length = o.lengths[i / 6];
    EXPECT_LE(n, length) << task.where(i);
    EXPECT_GT(n, length - 60) << task.where(i);  // less than the longest sentence short
    const std::string fact = fact_of(ask);
    EXPECT_THAT(fact, testing::MatchesRegex(" ?The [a-z ]+ of [A-Z][a-z]+ is [0-9]+\\. ?")) << i;
    facts.insert(fact);
    const double depth = o.depths[i / 2 % 3];
    const double share =
        static_cast<double>(ask.watched.begin) / static_cast<double>(n - ask.watched.size() - 20);
    if (length == 1000) {
      EXPECT_NEAR(share, depth, 0.06) << task.where(i);
    }
  }
  EXPECT_GT(facts.size(), 16u);
}

TEST(Needles, TheSameSeedPlantsTheSameWhateverElseIsAsked) {
  NeedleOptions o;
  o.lengths = {300};
  o.depths = {0.5};
  o.count = 1;
  const Needles one = needles(o);
  o.lengths = {200, 300};
  o.depths = {0, 0.5};
  const Needles more = needles(o);
  EXPECT_EQ(one.asks(0)[0].ids, more.asks(3)[0].ids);
  o.seed = 2;
  EXPECT_NE(needles(o).asks(3)[0].ids, more.asks(3)[0].ids);
  EXPECT_FALSE(needles(o).key() == more.key());
}

// Short texts end before the place where the next one begins.
TEST(Needles, ShortTextsBeginWhereTheyWouldAfterLongOnes) {
  NeedleOptions o;
  o.lengths = {64};
  o.depths = {0.5};
  o.count = 4;
  const Needles alone = needles(o);
  o.lengths = {1000, 64};
  const Needles after = needles(o);
  std::set<std::vector<int32_t>> texts;
  for (size_t n = 0; n < 4; ++n) {
    EXPECT_EQ(alone.asks(n)[0].ids, after.asks(4 + n)[0].ids) << n;
    texts.insert(alone.asks(n)[0].ids);
  }
  EXPECT_EQ(texts.size(), 4u);
}

TEST(Needles, AnAnswerIsRightByItsWholeNumber) {
  NeedleOptions o;
  o.lengths = {100};
  o.depths = {0.5};
  o.count = 1;
  const Needles task = needles(o);
  const std::string fact = fact_of(task.asks(0)[0]);
  const size_t digits = fact.find_first_of("0123456789");
  const std::string number =
      fact.substr(digits, fact.find_first_not_of("0123456789", digits) - digits);
  auto value = [&](const std::string& text) {
    Outcome out;
    out.answer = small_tokenizer().encode_plain(text);
    out.picked = {0.5, 1};
    return task.judge(0, std::vector<Outcome>{out});
  };
  EXPECT_EQ(value("It is " + number + ".").value, 1);
  EXPECT_EQ(value("It is 1" + number + ".").value, 0);
  EXPECT_EQ(value("It is " + number + "0").value, 0);
  EXPECT_EQ(value("").value, 0);
  const std::vector<Record> records = {value(number), value("x")};
  const Json extra = task.extra(records);
  EXPECT_EQ(extra["cells"][0]["recall"], 0.5);
  EXPECT_EQ(extra["cells"][0]["items"], 2);
  EXPECT_EQ(extra["picked_by_layer"], Json::array({0.5, 1.0}));
  EXPECT_THAT(needles_text(extra), HasSubstr("50 %"));
  const std::string svg = needles_svg({{"a < b", extra}});
  EXPECT_THAT(svg, HasSubstr("a &lt; b"));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
}

TEST(Needles, GivenTextsAreCutIntoSentences) {
  const std::string text = "One is here.  Two\nis there! Is it three?\n\nThe end";
  EXPECT_THAT(sentences_of(text),
              testing::ElementsAre("One is here.", "Two is there!", "Is it three?", "The end"));
  NeedleOptions o;
  o.lengths = {200};
  o.count = 3;
  for (int i = 0; i < 60; ++i) o.text += fmt::format("Sentence {} tells of a long day. ", i);
  const Needles task = needles(o);
  EXPECT_NE(task.asks(0)[0].ids, task.asks(1)[0].ids);
  EXPECT_THAT(small_tokenizer().decode(task.asks(0)[0].ids), HasSubstr("tells of a long day"));
}

TEST(Needles, RefusesWhatCannotBePlanted) {
  auto refusal = [](NeedleOptions o, int64_t max_context = 8192) {
    try {
      needles(std::move(o), max_context);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  NeedleOptions o;
  EXPECT_THAT(refusal(o), HasSubstr("need a length"));
  o.lengths = {20};
  EXPECT_THAT(refusal(o), HasSubstr("alone take"));
  o.lengths = {4096};
  EXPECT_THAT(refusal(o, 4096), HasSubstr("the context has 4096"));
  o.text = "Too short. ";
  EXPECT_THAT(refusal(o), HasSubstr("too short"));
  o.text = "\xff";
  EXPECT_THAT(refusal(o), HasSubstr("UTF-8"));
}

}  // namespace
}  // namespace fathom::eval
