// The control tokens of DeepSeek's models, by their text; their ids come from each tokenizer.json.
#pragma once

#include <string_view>

namespace fathom::marker {

inline constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kUser = "<｜User｜>";
inline constexpr std::string_view kAssistant = "<｜Assistant｜>";
inline constexpr std::string_view kThink = "<think>";
inline constexpr std::string_view kEndThink = "</think>";

// v3.1 tool calls
inline constexpr std::string_view kCallsBegin = "<｜tool▁calls▁begin｜>";
inline constexpr std::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
inline constexpr std::string_view kCallBegin = "<｜tool▁call▁begin｜>";
inline constexpr std::string_view kCallEnd = "<｜tool▁call▁end｜>";
inline constexpr std::string_view kToolSep = "<｜tool▁sep｜>";
inline constexpr std::string_view kOutputBegin = "<｜tool▁output▁begin｜>";
inline constexpr std::string_view kOutputEnd = "<｜tool▁output▁end｜>";

// v3.2 tool calls: one token inside tags that are otherwise ordinary text
inline constexpr std::string_view kDsml = "｜DSML｜";

inline constexpr std::string_view kAll[] = {
    kBos,      kEos,       kUser,    kAssistant, kThink,       kEndThink,  kCallsBegin,
    kCallsEnd, kCallBegin, kCallEnd, kToolSep,   kOutputBegin, kOutputEnd, kDsml};

}  // namespace fathom::marker
