// /v1/completions, and the routes about tokens and the server itself.
#include "openai_fixture.h"
#include "server/api/openai_format.h"
#include "support/api_paths.h"

namespace fathom::server {
namespace {

using test::kCompletions;
using ::testing::HasSubstr;

std::string ids_json(const std::vector<int32_t>& ids) { return OrderedJson(ids).dump(); }

TEST_F(OpenAiTest, TextGoesOn) {
  answer_with(" upon a time");
  const OrderedJson got = answer(kCompletions, R"({"prompt": "Once", "max_tokens": 50})");
  const std::vector<int32_t> prompt = tokenizer().encode("Once");
  const size_t answered = tokenizer().encode(" upon a time").size() + 1;
  OrderedJson want = OrderedJson::parse(R"({
    "id": "ID", "object": "text_completion", "created": 0, "model": "fathom-small",
    "system_fingerprint": "fp_test",
    "choices": [{"index": 0, "text": " upon a time", "logprobs": null, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0,
      "prompt_tokens_details": {"cached_tokens": 0},
      "completion_tokens_details": {"reasoning_tokens": 0}}})");
  want["usage"]["prompt_tokens"] = prompt.size();
  want["usage"]["completion_tokens"] = answered;
  want["usage"]["total_tokens"] = prompt.size() + answered;
  EXPECT_EQ(got.dump(1), want.dump(1));
  EXPECT_EQ(requests.at(0).ids, prompt);
  answer(kCompletions, R"({"prompt": "Once"})");
  EXPECT_EQ(requests.at(1).max_new_tokens, 16);
}

TEST_F(OpenAiTest, SpecialTokensAreControlInPromptsAndSilentInAnswers) {
  answer_with("one<｜User｜> two</think>");
  const OrderedJson got =
      answer(kCompletions, R"({"prompt": "<｜User｜>Hi<｜Assistant｜></think>"})");
  EXPECT_EQ(requests.at(0).ids, tokenizer().encode("<｜User｜>Hi<｜Assistant｜></think>"));
  EXPECT_EQ(requests.at(0).ids.front(), *tokenizer().added_id_of("<｜User｜>"));
  // What is special is no text here; reasoning tags are what the tokenizer says they are.
  std::vector<int32_t> ids = tokenizer().encode("one<｜User｜> two</think>");
  EXPECT_EQ(got["choices"][0]["text"], tokenizer().decode(ids, true));
}

TEST_F(OpenAiTest, PromptsOfEveryKind) {
  answer_with("!");
  const std::vector<int32_t> one = tokenizer().encode("one"), two = tokenizer().encode("two");
  answer(kCompletions, R"({"prompt": )" + ids_json(one) + "}");
  EXPECT_EQ(requests.at(0).ids, one);
  OrderedJson got = answer(kCompletions, R"({"prompt": ["one", "two"], "n": 2, "echo": true})");
  ASSERT_EQ(got["choices"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(got["choices"][i]["index"], i);
    EXPECT_EQ(got["choices"][i]["text"], i < 2 ? "one!" : "two!");
  }
  EXPECT_EQ(got["usage"]["prompt_tokens"], one.size() + two.size());
  EXPECT_EQ(got["usage"]["completion_tokens"], 8);
  got = answer(kCompletions,
               R"({"prompt": [)" + ids_json(one) + "," + ids_json(two) + R"(], "echo": true})");
  EXPECT_EQ(got["choices"][1]["text"], "two!");
}

TEST_F(OpenAiTest, EchoWithLogProbabilities) {
  answer_with(" ☕!");
  const std::vector<int32_t> prompt = tokenizer().encode("Tée"), out = tokenizer().encode(" ☕!");
  const OrderedJson got =
      answer(kCompletions, R"({"prompt": "Tée", "echo": true, "logprobs": 1, "seed": 1, "n": 2})");
  for (int c = 0; c < 2; ++c) {
    const OrderedJson& choice = got["choices"][static_cast<size_t>(c)];
    EXPECT_EQ(choice["text"], "Tée ☕!");
    const OrderedJson& l = choice["logprobs"];
    const size_t n = prompt.size() + out.size() + 1;  // and the end of sentence
    ASSERT_EQ(l["tokens"].size(), n);
    ASSERT_EQ(l["token_logprobs"].size(), n);
    ASSERT_EQ(l["top_logprobs"].size(), n);
    ASSERT_EQ(l["text_offset"].size(), n);
    EXPECT_TRUE(l["token_logprobs"][0].is_null());
    EXPECT_TRUE(l["top_logprobs"][0].is_null());
    EXPECT_EQ(l["token_logprobs"][1], -0.5);
    EXPECT_EQ(l["top_logprobs"][1].begin().value(), -0.5);
    EXPECT_EQ(l["text_offset"][0], 0);
    EXPECT_EQ(l["text_offset"][prompt.size()], 3);  // characters, not bytes
    EXPECT_EQ(l["text_offset"][n - 2], 5);
    EXPECT_EQ(l["tokens"][n - 2], "!");
    EXPECT_EQ(l["text_offset"][n - 1], 6);
  }
  // Streamed, the same lists in pieces.
  OrderedJson lists;
  std::string text;
  for (const OrderedJson& chunk :
       stream(kCompletions, R"({"prompt": "Tée", "echo": true, "logprobs": 1, "stream": true})")) {
    const OrderedJson& choice = chunk["choices"][0];
    text += choice["text"].get<std::string>();
    if (choice["logprobs"].is_null()) continue;
    for (const auto& [key, list] : choice["logprobs"].items())
      for (const OrderedJson& item : list) lists[key].push_back(item);
  }
  EXPECT_EQ(text, "Tée ☕!");
  EXPECT_EQ(lists, got["choices"][0]["logprobs"]);
}

TEST_F(OpenAiTest, ThePromptAlone) {
  answer_with("never seen");
  OrderedJson got = answer(kCompletions, R"({"prompt": "Once", "echo": true, "max_tokens": 0})");
  EXPECT_EQ(got["choices"][0]["text"], "Once");
  EXPECT_EQ(got["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(requests.empty());
  got = answer(kCompletions,
               R"({"prompt": "Once more", "echo": true, "max_tokens": 0, "logprobs": 0})");
  EXPECT_EQ(got["choices"][0]["text"], "Once more");
  EXPECT_EQ(got["usage"]["completion_tokens"], 0);
  EXPECT_EQ(got["usage"]["prompt_tokens"], tokenizer().encode("Once more").size());
  EXPECT_EQ(got["choices"][0]["logprobs"]["tokens"].size(), tokenizer().encode("Once more").size());
  const auto chunks =
      stream(kCompletions, R"({"prompt": "Once", "echo": true, "max_tokens": 0, "stream": true})");
  EXPECT_EQ(chunks.at(0)["choices"][0]["text"], "Once");
}

TEST_F(OpenAiTest, StreamedTextAndUsage) {
  answer_with(" upon a time END");
  const auto chunks = stream(kCompletions, R"({"prompt": "Once", "stream": true, "stop": " END",
                                      "stream_options": {"include_usage": true}})");
  std::string text;
  for (size_t i = 0; i + 1 < chunks.size(); ++i) {
    EXPECT_EQ(chunks[i]["object"], "text_completion");
    EXPECT_TRUE(chunks[i]["usage"].is_null());
    text += chunks[i]["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(text, " upon a time");
  EXPECT_EQ(chunks.at(chunks.size() - 2)["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(chunks.back()["choices"].empty());
  EXPECT_GT(chunks.back()["usage"]["completion_tokens"], 3);
}

TEST_F(OpenAiTest, OnePromptTooMuchStartsNothing) {
  answer_with("ok");
  refusal(kCompletions, R"({"prompt": ["fine", ""]})");
  EXPECT_TRUE(requests.empty());
}

TEST_F(OpenAiTest, RefusedCompletions) {
  const struct {
    const char* body;
    const char* message;
  } cases[] = {
      {R"({})", "prompt: expected a string, token ids, or an array of these, found nothing"},
      {R"({"prompt": 5})", "prompt: expected a string, token ids"},
      {R"({"prompt": []})", "prompt: expected at least one prompt"},
      {R"({"prompt": ["a", 1]})", "prompt[1]: expected a string or an array of token ids"},
      {R"({"prompt": [1, "a"]})", "prompt[1]: expected an integer"},
      {R"({"prompt": [1, -1]})", "prompt[1]: expected 0 to "},
      {R"({"prompt": [99999999]})", "prompt[0]: expected 0 to "},
      {R"({"prompt": "a", "suffix": "b"})", "suffix: this server does not support it"},
      {R"({"prompt": "a", "n": 2, "best_of": 3})", "best_of: only the value of n"},
      {R"({"prompt": "a", "logprobs": 21})", "logprobs: expected 0 to 20, found 21"},
      {R"({"prompt": "a", "logprobs": true})", "logprobs: expected an integer"},
      {R"({"prompt": "a", "max_tokens": 0})", "max_tokens: expected at least 1 without echo"},
      {R"({"prompt": "a", "response_format": {"type": "json_object"}})", "response_format: "},
      {R"({"prompt": ["a","a","a","a","a","a","a","a","a"], "n": 128})", "n: 128 choices of 9"},
      {R"({"prompt": ""})", "the prompt is empty"},
  };
  for (const auto& c : cases)
    EXPECT_THAT(refusal(kCompletions, c.body)["message"].get<std::string>(), HasSubstr(c.message));
}

TEST_F(OpenAiTest, PromptsFarTooLongAreRefusedByTheirBytes) {
  const std::string text(tokenizer().longest_token() * 4097 + 1, 'a');
  EXPECT_THAT(refusal(kCompletions, R"({"prompt": ")" + text + "\"}")["message"].get<std::string>(),
              HasSubstr("tokens at the least ("));
  EXPECT_THAT(refusal("/v1/chat/completions",
                      R"({"messages": [{"role": "user", "content": ")" + text + "\"}]}")["message"]
                  .get<std::string>(),
              HasSubstr("tokens at the least ("));
}

TEST_F(OpenAiTest, TokenizeAndBack) {
  const std::vector<int32_t> ids = tokenizer().encode("<｜User｜>Hello ☕");
  OrderedJson got =
      OrderedJson::parse(post("/tokenize", R"({"prompt": "<｜User｜>Hello ☕"})")->body());
  EXPECT_EQ(got["tokens"], OrderedJson(ids));
  EXPECT_EQ(got["count"], ids.size());
  EXPECT_EQ(got["max_model_len"], 4096);
  got = OrderedJson::parse(post("/tokenize", R"({"messages": [{"role": "user", "content": "Hello"}],
                           "chat_template_kwargs": {"thinking": true},
                           "return_token_strs": true})")
                               ->body());
  std::string text;
  for (const OrderedJson& token : got["token_strs"]) text += token.get<std::string>();
  EXPECT_EQ(text, "<｜begin▁of▁sentence｜><｜User｜>Hello<｜Assistant｜><think>");
  got = OrderedJson::parse(post("/detokenize", R"({"tokens": )" + ids_json(ids) + "}")->body());
  EXPECT_EQ(got["prompt"], "<｜User｜>Hello ☕");
  EXPECT_THAT(refusal("/detokenize", R"({"tokens": [-1]})")["message"].get<std::string>(),
              HasSubstr("tokens[0]: expected 0 to"));
  EXPECT_THAT(refusal("/tokenize", R"({})")["message"].get<std::string>(),
              HasSubstr("prompt: expected a string, found nothing"));
  EXPECT_EQ(refusal("/tokenize", R"({"model": "x", "prompt": "a"})", 404)["code"],
            "model_not_found");
}

TEST_F(OpenAiTest, AboutTheServer) {
  EXPECT_EQ(get("/health")->status(), 200);
  EXPECT_EQ(get("/ping")->status(), 200);
  EXPECT_TRUE(OrderedJson::parse(get("/version")->body())["version"].is_string());
  answer_with("One two");
  answer(kCompletions, R"({"prompt": "Once"})");
  EXPECT_THAT(get("/metrics")->body(), HasSubstr("vllm:"));
}

}  // namespace
}  // namespace fathom::server
