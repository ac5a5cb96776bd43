// Masks made on other threads: the same as those made here, whoever comes first, and no harm in
// walking away.
#include "server/answer_constraint.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <random>
#include <thread>

namespace fathom::server {
namespace {

constexpr int32_t kStop = 1;

const Tokenizer& tokenizer() {
  static const Tokenizer t =
      Tokenizer::from_folder(std::string(FATHOM_SOURCE_DIR) + "/models/small");
  return t;
}

std::shared_ptr<const CompiledForm> compiled(ConstraintFactory& factory, const char* schema) {
  AnswerForm form;
  form.kind = AnswerForm::Kind::json_schema;
  form.schema = OrderedJson::parse(schema);
  return factory.compile(form).value();
}

const char* const kSchema = R"({"type":"object","properties":{
    "name":{"type":"string","maxLength":40},"list":{"type":"array","items":{"type":"number"},"maxItems":5},
    "next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["name","list","next"]})";

int32_t draw(std::span<const uint64_t> mask, std::mt19937_64& random) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < mask.size() * 64; ++i)
    if (mask[i / 64] >> (i % 64) & 1) tokens.push_back(static_cast<int32_t>(i));
  return tokens.empty() ? -1 : tokens[random() % tokens.size()];
}

TEST(AnswerConstraint, MasksAreTheMatchersOwn) {
  ConstraintFactory factory(tokenizer(), Encoding::v31, {kStop});
  const auto form = compiled(factory, kSchema);
  for (int seed = 0; seed < 10; ++seed) {
    std::mt19937_64 random(seed);
    const auto constraint = make_answer_constraint(factory, form);
    const auto matcher = factory.matcher(form);
    std::vector<uint64_t> expected;
    for (int i = 0; i < 60; ++i) {
      matcher->allowed(expected);
      const std::span<const uint64_t> mask = constraint->allowed();
      ASSERT_TRUE(std::equal(mask.begin(), mask.end(), expected.begin(), expected.end()));
      const int32_t token = draw(mask, random);
      ASSERT_GE(token, 0);
      // Looking ahead changes nothing.
      const int32_t wrong = static_cast<int32_t>(random() % 4096);
      const bool allowed = mask[static_cast<size_t>(wrong) / 64] >> (wrong % 64) & 1;
      EXPECT_EQ(constraint->possible(std::vector{wrong}), allowed ? 1u : 0u);
      EXPECT_GE(constraint->possible(std::vector{token, wrong}), 1u);
      ASSERT_TRUE(matcher->accept(token));
      constraint->accept(token);
    }
  }
}

// Speculative steps and preemption may accept several tokens before they ask.
TEST(AnswerConstraint, TokensMayComeFasterThanMasks) {
  ConstraintFactory factory(tokenizer(), Encoding::v31, {kStop});
  const auto constraint = make_answer_constraint(factory, compiled(factory, kSchema));
  for (const int32_t token :
       tokenizer().encode_plain(R"({"name": "a", "list": [1, 2.5, -3e2], "next": null})")) {
    constraint->accept(token);
  }
  const auto mask = constraint->allowed();
  ASSERT_FALSE(mask.empty());
  EXPECT_EQ(mask[0], uint64_t{1} << kStop);
  constraint->accept(kStop);
  EXPECT_EQ(constraint->allowed()[0], uint64_t{1} << kStop);
}

TEST(AnswerConstraint, ATokenThatWasNotAllowedChangesNothing) {
  ConstraintFactory factory(tokenizer(), Encoding::v31, {kStop});
  const auto constraint = make_answer_constraint(factory, compiled(factory, R"({"type":"null"})"));
  const std::vector<uint64_t> before(constraint->allowed().begin(), constraint->allowed().end());
  constraint->accept(kStop);
  constraint->accept(-5);
  constraint->accept(1 << 30);
  const auto after = constraint->allowed();
  EXPECT_TRUE(std::equal(after.begin(), after.end(), before.begin(), before.end()));
}

TEST(AnswerConstraint, FreeFormsNeedNone) {
  ConstraintFactory factory(tokenizer(), Encoding::v31, {kStop});
  EXPECT_EQ(make_answer_constraint(factory, factory.compile({}).value()), nullptr);
  EXPECT_EQ(make_answer_constraint(factory, nullptr), nullptr);
}

// Many answers of one form and of others, some given up in the middle, from several threads.
TEST(AnswerConstraint, ManyAtOnceAndSomeDropped) {
  ConstraintFactory factory(tokenizer(), Encoding::v32, {kStop});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&factory, t] {
      std::mt19937_64 random(t);
      for (int i = 0; i < 25; ++i) {
        const auto constraint = make_answer_constraint(
            factory, compiled(factory, i % 3 == 0 ? R"({"type":"array"})" : kSchema));
        const int length = static_cast<int>(random() % 30);
        for (int k = 0; k < length; ++k) {
          const int32_t token = draw(constraint->allowed(), random);
          ASSERT_GE(token, 0);
          constraint->accept(token);
        }
      }  // with a mask under way
    });
  }
  for (std::thread& t : threads) t.join();
}

}  // namespace
}  // namespace fathom::server
