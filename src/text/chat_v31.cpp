#include "text/chat_v31.h"

#include "base/error.h"
#include "text/chat_markers.h"

namespace fathom {
namespace {

using namespace marker;

constexpr std::string_view kToolsHead = "## Tools\nYou have access to the following tools:\n";
constexpr std::string_view kToolsTail =
    "\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments"
    "<｜tool▁call▁end｜>{additional_tool_calls}<｜tool▁calls▁end｜>\n\n"
    "Where:\n"
    "- `tool_call_name` must be an exact match to one of the available tools\n"
    "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters "
    "Schema\n"
    "- For multiple tool calls, chain them directly without separators or spaces";

void add_tools(PromptBuilder& prompt, const OrderedJson& functions) {
  prompt.template_text("\n\n");
  prompt.template_text(kToolsHead);
  for (const OrderedJson& f : functions) {
    const bool described = f.contains("description") && f["description"].is_string();
    prompt.plain("\n### " + f["name"].get<std::string>() + "\nDescription: ");
    if (described) prompt.plain(f["description"].get_ref<const std::string&>());
    // In OpenAI's format a function without parameters may omit the member.
    prompt.plain("\n\nParameters: " +
                 (f.contains("parameters") ? python_dumps(f["parameters"]) : std::string("{}")) +
                 "\n");
  }
  prompt.template_text(kToolsTail);
}

void add_system(PromptBuilder& prompt, const Conversation& conversation) {
  OrderedJson functions = OrderedJson::array();
  bool first = true;
  for (const Message& m : conversation) {
    if (m.role != Role::system) continue;
    if (!first) prompt.plain("\n\n");
    prompt.plain(m.content);
    first = false;
    for (const OrderedJson& f : m.tools) functions.push_back(f);
  }
  if (!functions.empty()) add_tools(prompt, functions);
}

void add_assistant(PromptBuilder& prompt, const Message& m) {
  // If the content still holds reasoning, the reasoning ends with this tag and the answer follows.
  std::string_view content = m.content;
  const size_t tag = content.find(kEndThink);
  if (tag != content.npos) content.remove_prefix(tag + kEndThink.size());
  prompt.plain(content);
  if (!m.tool_calls.empty()) {
    prompt.control(kCallsBegin);
    for (const ToolCall& call : m.tool_calls) {
      prompt.control(kCallBegin);
      prompt.plain(call.name);
      prompt.control(kToolSep);
      prompt.plain(call.arguments);
      prompt.control(kCallEnd);
    }
    prompt.control(kCallsEnd);
  }
  prompt.control(kEos);
}

}  // namespace

std::vector<Segment> render_v31(const Conversation& conversation, bool thinking) {
  PromptBuilder prompt;
  prompt.control(kBos);
  add_system(prompt, conversation);
  bool awaits_answer = false;  // the last turn was the user's
  for (size_t i = 0; i < conversation.size(); ++i) {
    const Message& m = conversation[i];
    switch (m.role) {
      case Role::system:
        break;
      case Role::developer:
        fail("{}: the v3.1 encoding has no developer role (use system or user)",
             place_of_message(conversation, i));
      case Role::user:
        prompt.control(kUser);
        prompt.plain(m.content);
        awaits_answer = true;
        break;
      case Role::assistant:
        if (awaits_answer) {
          prompt.control(kAssistant);
          prompt.control(kEndThink);
        }
        add_assistant(prompt, m);
        awaits_answer = false;
        break;
      case Role::tool:
        prompt.control(kOutputBegin);
        prompt.plain(m.content);
        prompt.control(kOutputEnd);
        awaits_answer = false;
        break;
    }
  }
  if (awaits_answer) {
    prompt.control(kAssistant);
    prompt.control(thinking ? kThink : kEndThink);
  }
  return prompt.take();
}

}  // namespace fathom
