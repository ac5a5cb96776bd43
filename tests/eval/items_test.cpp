// Files of questions: what is read of them, what is asked, how answers are judged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "eval/answer.h"
#include "eval/choice.h"
#include "eval/small_tokenizer.h"

namespace fathom::eval {
namespace {

using test::small_tokenizer;
using testing::ElementsAre;
using testing::HasSubstr;

template <class T>
T make(const std::string& text, ItemSettings flags = {}, uint64_t seed = 1,
       int64_t max_context = 4096) {
  return T(small_tokenizer(), Encoding::v31, read_items("f.jsonl", text), flags, seed, max_context);
}

template <class F>
std::string refusal(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

std::vector<std::string> told(const Task& task) {
  std::vector<std::string> out;
  for (const Skipped& s : task.skipped()) out.push_back(s.where + ": " + s.reason);
  return out;
}

std::string text_of_ask(const Ask& ask) { return small_tokenizer().decode(ask.ids); }
std::string scored_text(const Ask& ask) {
  return small_tokenizer().decode(std::span(ask.ids).subspan(static_cast<size_t>(ask.score_from)));
}

Outcome scores(std::vector<float> logprobs) {
  Outcome o;
  o.logprobs = std::move(logprobs);
  return o;
}
Outcome says(const std::string& text, bool ended = true) {
  Outcome o;
  o.answer = small_tokenizer().encode_plain(text);
  o.ended = ended;
  return o;
}

TEST(ItemFile, LinesArraysAndSettings) {
  ItemFile f = read_items("f", "{\"settings\": {\"name\": \"x\", \"shots\": 2}}\n\n{\"a\": 1}\r\n");
  EXPECT_EQ(f.settings.name, "x");
  EXPECT_EQ(f.settings.shots, 2);
  ASSERT_EQ(f.items.size(), 1u);
  EXPECT_EQ(f.where(f.items[0].line), "f:3");
  f = read_items("f", "[{\"a\": 1}, 3, {\"a\": 2}]");
  EXPECT_EQ(f.items.size(), 2u);
  EXPECT_EQ(f.items[1].line, 3u);
  ASSERT_EQ(f.skipped.size(), 1u);
  EXPECT_EQ(f.skipped[0].where, "f:2");
}

TEST(ItemFile, BadLinesAreToldWithTheirNumbers) {
  const ItemFile f = read_items("f", "{\"a\": 1}\n{\"a\": \n[1]\n\"x\"\n{\"a\": \"\xff\"}\n{}\n");
  EXPECT_EQ(f.items.size(), 2u);
  std::vector<std::string> where;
  for (const Skipped& s : f.skipped) where.push_back(s.where + " " + s.reason);
  EXPECT_THAT(where, ElementsAre("f:2 no JSON", "f:3 no JSON object", "f:4 no JSON object",
                                 "f:5 no UTF-8 at byte 7"));
}

TEST(ItemFile, RefusesFilesWithoutItems) {
  EXPECT_THAT(refusal([] { read_items("f", ""); }), HasSubstr("f: no items"));
  EXPECT_THAT(refusal([] { read_items("f", "\n \n"); }), HasSubstr("f: no items"));
  EXPECT_THAT(refusal([] { read_items("f", "hello\n"); }), HasSubstr("f:1: no JSON"));
  EXPECT_THAT(refusal([] { read_items("f", "[1, 2"); }), HasSubstr("JSON array"));
  EXPECT_THAT(refusal([] { read_items("f", "[]"); }), HasSubstr("no items"));
  EXPECT_THAT(refusal([] { read_items("f", "{\"settings\": {\"shot\": 1}}\n{}\n"); }),
              HasSubstr("f:1: settings.shot is not known"));
  EXPECT_THAT(refusal([] { read_items("f", "{\"settings\": {\"shots\": \"1\"}}\n{}\n"); }),
              HasSubstr("settings.shots: expected a count"));
  EXPECT_THAT(refusal([] { read_items("f", "{}\n{\"settings\": {\"shots\": 1}}\n"); }),
              HasSubstr("f:2: settings stand in the first line"));
}

TEST(ItemFile, FieldsByPresetOrName) {
  EXPECT_THAT(fields_of("mmlu-pro").fields.choices, ElementsAre("options"));
  EXPECT_EQ(fields_of("gpqa").fields.choices.size(), 4u);
  EXPECT_EQ(fields_of("gsm8k").preset.marker, "####");
  const Fields f = fields_of("question=Q,choices=A+B+C,answer=label").fields;
  EXPECT_THAT(f.choices, ElementsAre("A", "B", "C"));
  EXPECT_THAT(f.answer, ElementsAre("label"));
  EXPECT_THAT(refusal([] { fields_of("mmlu"); }), HasSubstr("mmlu-pro, gpqa"));
  EXPECT_THAT(refusal([] { fields_of("quest=Q"); }), HasSubstr("\"quest=Q\""));
  EXPECT_THAT(refusal([] { fields_of("question="); }), HasSubstr("\"question=\""));
}

const char* kTwo =
    "{\"question\": \"The dogs \", \"choices\": [\"is here\", \"are here\"], \"answer\": 1}\n";

TEST(Choice, TextIsContinuedAndTheContinuationScored) {
  const auto task = make<Choice>(kTwo, {.style = "text"});
  ASSERT_EQ(task.size(), 1u);
  const std::vector<Ask> asks = task.asks(0);
  ASSERT_EQ(asks.size(), 2u);
  EXPECT_EQ(text_of_ask(asks[0]), "The dogs is here");
  EXPECT_EQ(scored_text(asks[0]), " is here");
  EXPECT_EQ(scored_text(asks[1]), " are here");
  EXPECT_EQ(asks[0].max_new_tokens, 1);
}

TEST(Choice, LettersAreListed) {
  const auto task = make<Choice>(kTwo);
  EXPECT_EQ(text_of_ask(task.asks(0)[1]),
            "Question: The dogs \nA. is here\nB. are here\nAnswer: B");
  EXPECT_EQ(scored_text(task.asks(0)[1]), " B");
  const auto chat = make<Choice>(kTwo, {.chat = true});
  EXPECT_THAT(text_of_ask(chat.asks(0)[0]), HasSubstr("Answer:<"));
  EXPECT_EQ(scored_text(chat.asks(0)[0]), "A");
}

TEST(Choice, ExamplesComeFromTheFilesBeginning) {
  std::string text;
  for (int i = 0; i < 4; ++i)
    text += fmt::format(
        "{{\"question\": \"Q{}\", \"choices\": [\"x\", \"y\"], \"answer\": \"B\"}}\n", i);
  const auto task = make<Choice>(text, {.shots = 2});
  ASSERT_EQ(task.size(), 2u);
  EXPECT_EQ(task.where(0), "f.jsonl:3");
  EXPECT_EQ(text_of_ask(task.asks(0)[0]),
            "Question: Q0\nA. x\nB. y\nAnswer: B\n\nQuestion: Q1\nA. x\nB. y\nAnswer: B\n\n"
            "Question: Q2\nA. x\nB. y\nAnswer: A");
  EXPECT_THAT(refusal([&] { make<Choice>(text, {.shots = 4}); }), HasSubstr("no item can be used"));
  EXPECT_THAT(refusal([&] { make<Choice>(text, {.shots = 5}); }), HasSubstr("5 examples"));
}

TEST(Choice, TheMostProbableWinsByEachRule) {
  const auto task = make<Choice>(
      "{\"question\": \"Q\", \"choices\": [\"a long answer\", \"no\"], \"answer\": 0}\n",
      {.style = "text"});
  const std::vector<Outcome> o = {scores({-3, -3, -3}), scores({-4})};
  Record r = task.judge(0, o);
  EXPECT_EQ(r.value, 0);  // -9 against -4
  EXPECT_EQ(r.detail["chosen"], 1);
  EXPECT_EQ(r.detail["chosen_normalised"], 0);  // -9 / 14 against -4 / 3
  const auto by_byte = make<Choice>(
      "{\"question\": \"Q\", \"choices\": [\"a long answer\", \"no\"], \"answer\": 0}\n",
      {.style = "text", .score = "normalised"});
  r = by_byte.judge(0, o);
  EXPECT_EQ(r.value, 1);
  const Json extra = by_byte.extra(std::vector<Record>{r});
  EXPECT_EQ(extra["accuracy_logprob"], 0);
  EXPECT_EQ(extra["accuracy_normalised"], 1);
  // Of equals the first.
  EXPECT_EQ(task.judge(0, std::vector<Outcome>{scores({-1}), scores({-1})}).detail["chosen"], 0);
}

TEST(Choice, AnswersByTextLetterAndIndex) {
  auto answer = [](const std::string& value) {
    const auto task = make<Choice>(
        "{\"question\": \"Q\", \"choices\": [\"2\", \"B\", \"x\", 7], "
        "\"answer\": " +
        value + "}\n");
    return task.judge(0, std::vector<Outcome>(4, scores({-1}))).detail["answer"].get<int>();
  };
  EXPECT_EQ(answer("\"x\""), 2);
  EXPECT_EQ(answer("\"2\""), 0);  // a choice's text goes before a letter
  EXPECT_EQ(answer("\"B\""), 1);
  EXPECT_EQ(answer("\"D\""), 3);
  EXPECT_EQ(answer("2"), 2);
  EXPECT_EQ(answer("3.0"), 3);
  EXPECT_EQ(answer("\"7\""), 3);
}

TEST(Choice, AnswersByTheLabelsThatAFileNames) {
  auto answer = [](const std::string& value) {
    const auto task = make<Choice>(
        "{\"question\": \"Q\", \"choices\": {\"text\": [\"2\", \"x\", \"y\"], \"label\": [\"1\", "
        "\"2\", \"3\"]}, \"answer\": \"" +
        value + "\"}\n");
    return task.judge(0, std::vector<Outcome>(3, scores({-1}))).detail["answer"].get<int>();
  };
  EXPECT_EQ(answer("1"), 0);
  EXPECT_EQ(answer("2"), 1);  // a label goes before a choice's text
  EXPECT_EQ(answer("y"), 2);
}

TEST(Choice, WhatCannotBeUsedIsToldWithItsLine) {
  const auto task = make<Choice>(
      "{\"choices\": [\"a\", \"b\"], \"answer\": 0}\n"
      "{\"question\": \"Q\", \"answer\": 0}\n"
      "{\"question\": \"Q\", \"choices\": [\"a\", \"b\"]}\n"
      "{\"question\": \"Q\", \"choices\": [\"a\", \"b\"], \"answer\": 2}\n"
      "{\"question\": \"Q\", \"choices\": [\"a\", \"b\"], \"answer\": -1}\n"
      "{\"question\": \"Q\", \"choices\": [\"a\", \"b\"], \"answer\": \"c\"}\n"
      "{\"question\": \"Q\", \"choices\": [\"a\", \"b\"], \"answer\": \"C\"}\n"
      "{\"question\": \"Q\", \"choices\": [\"a\"], \"answer\": 0}\n"
      "{\"question\": \"Q\", \"choices\": [\"a\", \"a\"], \"answer\": 0}\n"
      "{\"question\": [1], \"choices\": [\"a\", \"b\"], \"answer\": 0}\n"
      "{\"question\": \"Q\", \"choices\": [\"a\", null], \"answer\": 0}\n"
      "not json\n"
      "{\"question\": \"Q\", \"choices\": [\"a\", \"b\"], \"answer\": true}\n"
      "{\"question\": \"" +
          std::string(4000, 'x') +
          "\", \"choices\": [\"a\", \"b\"], "
          "\"answer\": 0}\n"
          "{\"question\": \"Q\", \"choices\": [\"a\", \"b\"], \"answer\": 0}\n"
          "{\"question\": \"Q\", \"choices\": [\"a\", \" \"], \"answer\": 0}\n"
          "{\"question\": \"Q\", \"choices\": [\"a\", \"b\"], \"answer\": 0.5}\n"
          "{\"question\": \"Q\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"1\"]}, "
          "\"answer\": \"1\"}\n",
      {}, 1, 200);
  EXPECT_EQ(task.size(), 1u);
  EXPECT_EQ(task.where(0), "f.jsonl:15");
  std::vector<std::string> reasons = told(task);
  EXPECT_EQ(reasons.size(), 17u);
  const std::string all = testing::PrintToString(reasons);
  for (const char* part :
       {"f.jsonl:1: no field \\\"question\\\"", "f.jsonl:2: no field \\\"choices\\\"",
        "f.jsonl:3: no field \\\"answer\\\"", "f.jsonl:4: the answer is 2: the choices are 0 to 1",
        "f.jsonl:5: the answer is -1", "f.jsonl:6: the answer \\\"c\\\" is none of the 2 choices",
        "f.jsonl:7: the answer \\\"C\\\"", "f.jsonl:8: 1 choices", "f.jsonl:9: two choices are the",
        "f.jsonl:10: \\\"question\\\" is no text", "f.jsonl:11: \\\"choices\\\" has a choice",
        "f.jsonl:12: no JSON", "f.jsonl:13: the answer is no text", "f.jsonl:14:",
        "f.jsonl:16: a choice is empty", "f.jsonl:17: the answer is 0.5", "f.jsonl:18: 1 labels"})
    EXPECT_THAT(all, HasSubstr(part));
  EXPECT_THAT(all, HasSubstr("the context has 200"));
  EXPECT_THAT(refusal([] { make<Choice>("{\"question\": \"Q\"}\n"); }),
              HasSubstr("no item can be used; f.jsonl:1: no field \"choices\""));
}

TEST(Choice, ShufflesBySeedAndLine) {
  std::string text;
  for (int i = 0; i < 30; ++i)
    text +=
        "{\"Question\": \"Q\", \"Correct Answer\": \"r\", \"Incorrect Answer 1\": \"a\", "
        "\"Incorrect Answer 2\": \"b\", \"Incorrect Answer 3\": \"c\"}\n";
  auto places = [&](uint64_t seed) {
    const auto task = make<Choice>(text, {.fields = "gpqa", .chat = false}, seed);
    std::vector<int> out;
    for (size_t i = 0; i < task.size(); ++i)
      out.push_back(
          task.judge(i, std::vector<Outcome>(4, scores({-1}))).detail["answer"].get<int>());
    return out;
  };
  const std::vector<int> first = places(1);
  EXPECT_EQ(first, places(1));
  EXPECT_NE(first, places(2));
  for (int place = 0; place < 4; ++place)
    EXPECT_GE(std::count(first.begin(), first.end(), place), 2) << place;
}

TEST(Choice, LettersOfGeneratedAnswers) {
  EXPECT_EQ(letter_of("B", 4), 1);
  EXPECT_EQ(letter_of(" (C) because A is wrong", 4), 2);
  EXPECT_EQ(letter_of("A is wrong, so the answer is (D).", 4), 3);
  EXPECT_EQ(letter_of("The answer is B. No: the answer is **C**", 4), 2);
  EXPECT_EQ(letter_of("Answer: D", 4), 3);
  EXPECT_EQ(letter_of("Answer: J", 4), -1);
  EXPECT_EQ(letter_of("Apples and Bananas", 4), -1);
  EXPECT_EQ(letter_of("", 4), -1);
  EXPECT_EQ(letter_of("the answer", 4), -1);
}

TEST(Choice, GeneratedAnswersAreJudgedByTheirLetter) {
  const auto task = make<Choice>(kTwo, {.chat = true, .score = "generate"});
  ASSERT_EQ(task.asks(0).size(), 1u);
  EXPECT_EQ(task.asks(0)[0].score_from, 0);
  const Record right = task.judge(0, std::vector<Outcome>{says("The answer is B.")});
  const Record none = task.judge(0, std::vector<Outcome>{says("I do not know")});
  EXPECT_EQ(right.value, 1);
  EXPECT_EQ(none.value, 0);
  EXPECT_EQ(task.extra(std::vector<Record>{right, none})["unparsed"], 1);
}

TEST(Choice, SettingsThatContradictEachOtherAreRefused) {
  EXPECT_THAT(refusal([] { make<Choice>(kTwo, {.style = "text", .score = "generate"}); }),
              HasSubstr("--style text"));
  EXPECT_THAT(refusal([] { make<Choice>(kTwo, {.thinking = true}); }), HasSubstr("--chat"));
  EXPECT_THAT(refusal([] { make<Choice>(kTwo, {.style = "lettres"}); }),
              HasSubstr("style is \"lettres\": letters, text"));
}

TEST(AnswerMatch, NumbersBehindMarkers) {
  EXPECT_EQ(number_behind("so #### 72", "####"), 72);
  EXPECT_EQ(number_behind("#### 1\n#### -1,234.50 apples", "####"), -1234.5);
  EXPECT_EQ(number_behind("\\boxed{204}", "\\boxed{"), 204);
  EXPECT_EQ(number_behind("#### $18.", "####"), 18);
  EXPECT_EQ(number_behind("no marker 5", "####"), std::nullopt);
  EXPECT_EQ(number_behind("#### none", "####"), std::nullopt);
  EXPECT_EQ(number_behind("first 3, then 4.", ""), 4);
  EXPECT_EQ(number_behind("1,000,000", ""), 1e6);
  EXPECT_EQ(number_behind("1,00", ""), 0);  // two numbers
  EXPECT_EQ(number_behind("12,3456", ""), 3456);
  EXPECT_EQ(number_behind("6.02e23", ""), 6.02e23);
  EXPECT_EQ(number_behind("x \u2212"
                          "5",
                          ""),
            -5);
  EXPECT_EQ(number_behind(".5", ""), 0.5);
  EXPECT_EQ(number_behind("B2", ""), std::nullopt);
  EXPECT_EQ(number_behind("", ""), std::nullopt);
}

TEST(AnswerMatch, PatternsAreFoundAnywhere) {
  EXPECT_TRUE(Pattern("(?i)par[ií]s").found_in("It is PARÍS."));
  EXPECT_FALSE(Pattern("^paris$").found_in("in paris"));
  EXPECT_THAT(refusal([] { Pattern("a("); }), HasSubstr("'a(' does not compile"));
  // Catastrophic: it gives up instead of running for years.
  EXPECT_FALSE(Pattern("^(a+)+$").found_in(std::string(40, 'a') + "b"));
}

TEST(AnswerTask, JudgesByEachRule) {
  auto judge = [](const std::string& expected, ItemSettings s, const std::string& answer) {
    const auto task = make<AnswerTask>("{\"prompt\": \"P\", \"expected\": " + expected + "}\n", s);
    return task.judge(0, std::vector<Outcome>{says(answer)}).value;
  };
  EXPECT_EQ(judge("\"Paris\"", {}, " Paris\n"), 1);
  EXPECT_EQ(judge("\"Paris\"", {}, "Paris."), 0);
  EXPECT_EQ(judge("\"[Pp]aris\"", {.match = "regex"}, "in paris"), 1);
  EXPECT_EQ(judge("72", {.match = "number"}, "It is 72.0 euros"), 1);
  EXPECT_EQ(judge("\"so #### 72\"", {.match = "number", .marker = "####"}, "5 #### 72"), 1);
  EXPECT_EQ(judge("\"72\"", {.match = "number", .marker = "####"}, "72"), 0);
  EXPECT_EQ(judge("\"yes\"", {.stop = "\n"}, "yes\nQuestion"), 1);
}

TEST(AnswerTask, SamplesHaveSeedsOfTheirOwnAndGivePassAtK) {
  const std::string text =
      "{\"prompt\": \"P\", \"expected\": \"1\"}\n"
      "{\"prompt\": \"P\", \"expected\": \"1\"}\n";
  const auto task = make<AnswerTask>(text, {.samples = 4});
  EXPECT_FALSE(task.binary());
  std::vector<uint64_t> seeds;
  for (size_t item = 0; item < 2; ++item)
    for (const Ask& ask : task.asks(item)) {
      seeds.push_back(ask.sampling.seed);
      EXPECT_GT(ask.sampling.temperature, 0);
    }
  std::sort(seeds.begin(), seeds.end());
  EXPECT_EQ(std::unique(seeds.begin(), seeds.end()) - seeds.begin(), 8);
  const auto again = make<AnswerTask>(text, {.samples = 4});
  EXPECT_EQ(again.asks(1)[2].sampling.seed, task.asks(1)[2].sampling.seed);
  const auto other = make<AnswerTask>(text, {.samples = 4}, 2);
  EXPECT_NE(other.asks(1)[2].sampling.seed, task.asks(1)[2].sampling.seed);
  EXPECT_FALSE(other.key() == task.key());

  const Record r =
      task.judge(0, std::vector<Outcome>{says("1"), says("2"), says("2"), says("3", false)});
  EXPECT_EQ(r.value, 0.25);
  const Json extra = task.extra(std::vector<Record>{r});
  EXPECT_EQ(extra["pass_at_2"], 0.5);
  EXPECT_EQ(extra["pass_at_4"], 1);
  EXPECT_EQ(extra["cut_off"], 1);
}

TEST(AnswerTask, WhatCannotBeUsedIsToldWithItsLine) {
  const auto task = make<AnswerTask>(
      "{\"expected\": \"1\"}\n{\"prompt\": \"P\"}\n{\"prompt\": \"P\", \"expected\": \"none\"}\n"
      "{\"prompt\": \"P\", \"expected\": \" \"}\n{\"prompt\": \"P\", \"expected\": {}}\n"
      "{\"prompt\": \"P\", \"expected\": 3}\n",
      {.match = "number"});
  EXPECT_EQ(task.size(), 1u);
  EXPECT_THAT(told(task), ElementsAre("f.jsonl:1: no field \"question\" or \"prompt\"",
                                      "f.jsonl:2: no field \"answer\" or \"expected\"",
                                      "f.jsonl:3: what is expected has no number: \"none\"",
                                      "f.jsonl:4: what is expected is empty",
                                      "f.jsonl:5: \"answer\" is no text and no number"));
  EXPECT_THAT(refusal([] {
                make<AnswerTask>("{\"prompt\": \"P\", \"expected\": \"a(\"}\n", {.match = "regex"});
              }),
              HasSubstr("f.jsonl:1: the regular expression 'a('"));
  EXPECT_THAT(refusal([] {
                make<AnswerTask>("{\"prompt\": \"P\", \"expected\": \"1\"}\n",
                                 {.samples = 3, .temperature = 0.0});
              }),
              HasSubstr("temperature 0"));
  EXPECT_THAT(refusal([] {
                make<AnswerTask>("{\"prompt\": \"P\", \"expected\": \"1\"}\n", {.template_ = "x"});
              }),
              HasSubstr("{prompt}"));
}

TEST(AnswerTask, PresetsReadTheirDataSets) {
  const auto gsm = make<AnswerTask>(
      "{\"question\": \"How many?\", \"answer\": \"He has 3 * 4 = <<3*4=12>>12.\\n#### 1,012\"}\n",
      {.fields = "gsm8k"});
  EXPECT_THAT(text_of_ask(gsm.asks(0)[0]), HasSubstr("How many?\n\nWork it out"));
  EXPECT_EQ(gsm.judge(0, std::vector<Outcome>{says("x\n#### 1012")}).value, 1);
  for (const char* names : {"problem\": \"P\", \"answer", "Problem\": \"P\", \"Answer"}) {
    const auto aime = make<AnswerTask>(fmt::format("{{\"{}\": \"204\"}}\n", names),
                                       {.fields = "aime", .max_new_tokens = 100});
    EXPECT_EQ(aime.judge(0, std::vector<Outcome>{says("so \\boxed{204}.")}).value, 1);
  }
  const auto mmlu = make<Choice>(
      "{\"question\": \"Q\", \"options\": [\"a\", \"b\", \"c\"], \"answer\": \"C\", "
      "\"answer_index\": 2}\n",
      {.fields = "mmlu-pro"});
  EXPECT_EQ(mmlu.judge(0, std::vector<Outcome>(3, scores({-1}))).detail["answer"], 2);
}

}  // namespace
}  // namespace fathom::eval
