// Tools and the tool choice, as each protocol writes them.
#include "server/api/tool_request.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace fathom::server {
namespace {

using Mode = ToolUse::Mode;

ToolUse read(Protocol protocol, const std::string& body) {
  const OrderedJson json = OrderedJson::parse(body);
  return read_tool_use(JsonField(json, ""), protocol);
}

std::string refusal(Protocol protocol, const std::string& body) {
  try {
    read(protocol, body);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

std::vector<std::string> shown(const ToolUse& use) {
  std::vector<std::string> names;
  for (const Tool& tool : use.tools) names.push_back(tool.function["name"]);
  return names;
}

TEST(ToolRequest, OneToolInEveryProtocol) {
  const struct {
    Protocol protocol;
    const char* body;
    const char* place;
    bool strict;
  } cases[] = {
      {Protocol::chat,
       R"({"tools": [{"type": "function", "function": {"name": "f", "description": "D",
           "parameters": {"type": "object"}}}]})",
       "tools[0].function.parameters", false},
      {Protocol::responses,
       R"({"tools": [{"type": "function", "name": "f", "description": "D", "strict": null,
           "parameters": {"type": "object"}}]})",
       "tools[0].parameters", false},
      {Protocol::messages,
       R"({"tools": [{"name": "f", "description": "D", "strict": true, "defer_loading": false,
           "cache_control": {"type": "ephemeral"}, "input_schema": {"type": "object"}}]})",
       "tools[0].input_schema", true}};
  for (const auto& c : cases) {
    const ToolUse use = read(c.protocol, c.body);
    ASSERT_EQ(use.tools.size(), 1u);
    EXPECT_EQ(use.tools[0].function.dump(),
              R"({"name":"f","description":"D","parameters":{"type":"object"}})");
    EXPECT_EQ(use.tools[0].place, c.place);
    EXPECT_EQ(use.tools[0].strict, c.strict);
    EXPECT_EQ(use.mode, Mode::automatic);
    EXPECT_TRUE(use.parallel);
    EXPECT_EQ(use.offered.size(), 1u);
  }
}

TEST(ToolRequest, ChoicesOfEveryProtocol) {
  const std::string chat =
      R"({"tools": [{"function": {"name": "f"}}, {"function": {"name": "g"}}], "tool_choice": )";
  const std::string responses =
      R"({"tools": [{"type": "function", "name": "f"}, {"type": "function", "name": "g"}],
          "tool_choice": )";
  const std::string messages =
      R"({"tools": [{"name": "f", "input_schema": {}}, {"name": "g", "input_schema": {}}],
          "tool_choice": )";
  const struct {
    Protocol protocol;
    const std::string& tools;
    const char* choice;
    Mode mode;
    const char* named;
    size_t left;
  } cases[] = {
      {Protocol::chat, chat, "null", Mode::automatic, "", 2},
      {Protocol::chat, chat, "\"auto\"", Mode::automatic, "", 2},
      {Protocol::chat, chat, "\"none\"", Mode::none, "", 2},
      {Protocol::chat, chat, "\"required\"", Mode::required, "", 2},
      {Protocol::chat, chat, R"({"type": "function", "function": {"name": "g"}})", Mode::named, "g",
       2},
      {Protocol::chat, chat,
       R"({"type": "allowed_tools", "allowed_tools": {"mode": "required",
           "tools": [{"type": "function", "function": {"name": "g"}}]}})",
       Mode::required, "", 1},
      {Protocol::responses, responses, "\"required\"", Mode::required, "", 2},
      {Protocol::responses, responses, R"({"type": "function", "name": "g"})", Mode::named, "g", 2},
      {Protocol::responses, responses,
       R"({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]})",
       Mode::automatic, "", 1},
      {Protocol::messages, messages, R"({"type": "any"})", Mode::required, "", 2},
      {Protocol::messages, messages, R"({"type": "none"})", Mode::none, "", 2},
      {Protocol::messages, messages, R"({"type": "tool", "name": "g"})", Mode::named, "g", 2}};
  for (const auto& c : cases) {
    const ToolUse use = read(c.protocol, c.tools + c.choice + "}");
    EXPECT_EQ(use.mode, c.mode) << c.choice;
    EXPECT_EQ(use.named, c.named) << c.choice;
    EXPECT_EQ(use.tools.size(), c.left) << c.choice;
  }
  EXPECT_FALSE(read(Protocol::chat, R"({"parallel_tool_calls": false})").parallel);
  EXPECT_FALSE(
      read(Protocol::messages, messages + R"({"type": "auto", "disable_parallel_tool_use": true}})")
          .parallel);
}

TEST(ToolRequest, NamespacesAreShownFlatAndKnownApart) {
  const ToolUse use = read(Protocol::responses, R"({"tools": [
      {"type": "namespace", "name": "mcp__weather", "description": "Weather tools", "tools": [
        {"type": "function", "name": "get", "description": "Get it", "strict": false,
         "parameters": {"type": "object"}},
        {"type": "function", "name": "set"}]},
      {"type": "namespace", "name": "mcp__files__", "tools": [{"type": "function", "name": "get"}]},
      {"type": "function", "name": "get"}]})");
  EXPECT_EQ(shown(use), (std::vector<std::string>{"mcp__weather__get", "mcp__weather__set",
                                                  "mcp__files__get", "get"}));
  EXPECT_EQ(use.tools[0].function["description"], "Weather tools\n\nGet it");
  EXPECT_FALSE(use.tools[1].function.contains("description"));
  EXPECT_EQ(use.tools[0].place, "tools[0].tools[0].parameters");
  EXPECT_EQ(use.names.of("mcp__weather__set"), (ToolName{"set", "mcp__weather"}));
  EXPECT_EQ(use.names.of("get"), (ToolName{"get", ""}));
  EXPECT_EQ(use.names.of("made_up"), (ToolName{"made_up", ""}));
  EXPECT_EQ(use.names.shown({"get", "mcp__files__"}), "mcp__files__get");
  EXPECT_EQ(use.names.shown({"gone", "mcp__old"}), "mcp__old__gone");
  EXPECT_EQ(use.offered.size(), 3u);
}

// Models leave the namespace out: a name that one tool alone has is that tool's.
TEST(ToolRequest, AModelMayLeaveOutTheNamespace) {
  const ToolUse use = read(Protocol::responses, R"({"tools": [
      {"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "get"},
                                                   {"type": "function", "name": "set"}]},
      {"type": "namespace", "name": "b", "tools": [{"type": "function", "name": "get"}]}]})");
  EXPECT_EQ(use.names.of("set"), (ToolName{"set", "a"}));
  EXPECT_EQ(use.names.of("get"), (ToolName{"get", ""}));  // of which of the two is not known
  EXPECT_EQ(use.names.of("ge"), (ToolName{"ge", ""}));
}

// Two tools whose joined names are the same word stay two tools.
TEST(ToolRequest, NamesThatMeetAreNumbered) {
  const ToolUse use = read(Protocol::responses, R"({"tools": [
      {"type": "function", "name": "a__b__c"},
      {"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "b__c"}]},
      {"type": "namespace", "name": "a__b", "tools": [{"type": "function", "name": "c"}]}],
      "tool_choice": {"type": "function", "namespace": "a__b", "name": "c"}})");
  EXPECT_EQ(shown(use), (std::vector<std::string>{"a__b__c", "a__b__c_2", "a__b__c_3"}));
  EXPECT_EQ(use.named, "a__b__c_3");
  EXPECT_EQ(use.names.of("a__b__c_2"), (ToolName{"b__c", "a"}));
}

TEST(ToolRequest, ToolsThatAgentsListUnaskedAreLeftOut) {
  for (const char* type :
       {"custom", "local_shell", "shell", "apply_patch", "additional_tools", "tool_search",
        "web_search", "web_search_preview_2025_03_11", "image_generation", "invented_tomorrow"}) {
    const ToolUse use = read(Protocol::responses, R"({"tools": [{"type": ")" + std::string(type) +
                                                      R"(", "name": "x", "tools": 5},
        {"type": "function", "name": "f"}], "tool_choice": "auto"})");
    EXPECT_EQ(shown(use), std::vector<std::string>{"f"});
    EXPECT_EQ(use.left_out, std::set<std::string>{type});
    EXPECT_EQ(use.offered.size(), 1u);
  }
  // Within a namespace, too; a namespace of nothing else is left out as a whole.
  const ToolUse inside = read(Protocol::responses, R"({"tools": [{"type": "namespace", "name": "n",
      "description": "D", "tools": [{"type": "custom", "name": "x"}]}]})");
  EXPECT_TRUE(inside.tools.empty());
  EXPECT_TRUE(inside.offered.empty());
  EXPECT_EQ(inside.left_out, std::set<std::string>{"custom"});
  EXPECT_EQ(read(Protocol::chat, R"({"tools": [{"type": "custom", "custom": {"name": "x"}}]})")
                .left_out.size(),
            1u);
  EXPECT_EQ(read(Protocol::messages, R"({"tools": [{"type": "tool_search_tool_regex_20251119",
      "name": "tool_search_tool_regex"}]})")
                .left_out.size(),
            1u);
}

TEST(ToolRequest, ToolsThatMessagesBringUpAndWithdraw) {
  const std::string tools = R"({"tools": [{"name": "a", "input_schema": {}},
      {"name": "late", "input_schema": {}, "defer_loading": true},
      {"name": "later", "input_schema": {}, "defer_loading": true}], "messages": )";
  const auto names = [&](const std::string& messages) {
    return shown(read(Protocol::messages, tools + messages + "}"));
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(names("null"), Names{"a"});
  EXPECT_EQ(names(R"([{"role": "user", "content": "x"}, 5])"), Names{"a"});
  EXPECT_EQ(names(R"([{"role": "user", "content": [{"type": "tool_result", "content": [
                {"type": "tool_reference", "tool_name": "later"}]}]}])"),
            (Names{"a", "later"}));
  EXPECT_EQ(names(R"([{"role": "system", "content": [
                {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "late"}},
                {"type": "tool_addition", "tool": {"type": "tool_definition", "definition":
                    {"name": "new", "input_schema": {}, "defer_loading": true}}},
                {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "a"}}]}])"),
            (Names{"late", "new"}));
  EXPECT_EQ(names(R"([{"role": "system", "content": [
                {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "a"}},
                {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "a"}}]}])"),
            Names{"a"});
  // The search is a server's, which is not here.
  EXPECT_EQ(shown(read(Protocol::messages, R"({"tools": [
      {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"},
      {"name": "late", "input_schema": {}, "defer_loading": true}]})")),
            Names{"late"});
}

TEST(ToolRequest, WhatIsTheReasonOfARequestIsNotLeftOut) {
  const auto starts = [](const std::string& text, const char* with) {
    EXPECT_TRUE(text.starts_with(with)) << text;
  };
  for (const char* type : {"mcp", "file_search", "code_interpreter", "computer_use_preview"})
    starts(refusal(Protocol::responses, R"({"tools": [{"type": ")" + std::string(type) + R"("}]})"),
           "tools[0].type: expected 'function'");
  starts(refusal(Protocol::messages, R"({"tools": [{"type": "bash_20250124", "name": "bash"}]})"),
         "tools[0].type: expected 'custom'");
  const std::string tools = R"({"tools": [{"type": "custom", "name": "p"}, {"type": "web_search"},
      {"type": "function", "name": "f"}], "tool_choice": )";
  starts(refusal(Protocol::responses, tools + R"({"type": "custom", "name": "p"}})"),
         "tool_choice.type: expected function or allowed_tools, found 'custom'");
  starts(refusal(Protocol::responses, tools + R"({"type": "web_search"}})"),
         "tool_choice.type: expected function or allowed_tools, found 'web_search'");
  starts(refusal(Protocol::responses, tools + R"({"type": "allowed_tools", "mode": "auto",
                             "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}})"),
         "tool_choice.tools[1].type: tools of type 'web_search' are not offered");
  starts(refusal(Protocol::responses, R"({"tools": [{"type": "custom", "name": "p"}],
                                          "tool_choice": "required"})"),
         "tool_choice: a tool must be called, but there are none");
  starts(refusal(Protocol::responses, R"({"tools": [{"type": "namespace", "name": "a", "tools": [
                                          {"type": "function", "name": "x"}]}],
                                          "tool_choice": {"type": "function", "name": "x"}})"),
         "tool_choice: 'x' is none of the tools");
  starts(refusal(Protocol::responses, R"({"tools": [{"type": "namespace", "name": ""}]})"),
         "tools[0].name: expected a name");
  starts(refusal(Protocol::responses, R"({"tools": [{"type": "namespace", "name": "a"}]})"),
         "tools[0].tools: expected an array");
}

}  // namespace
}  // namespace fathom::server
