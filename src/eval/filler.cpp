#include "eval/filler.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

namespace fathom::eval {
namespace {

constexpr std::array<std::string_view, 16> kWho = {
    "the old gardener", "a young officer", "the captain",      "my aunt",
    "the schoolmaster", "a tall stranger", "the miller's son", "the landlord",
    "an elderly clerk", "the doctor",      "his brother",      "the housekeeper",
    "a fisherman",      "the porter",      "her cousin",       "the judge"};
constexpr std::array<std::string_view, 16> kDid = {"had walked slowly along the river",
                                                   "stood for a long time at the window",
                                                   "spoke in a low voice of the war",
                                                   "went back to the house without a word",
                                                   "had never seen so much snow in the valley",
                                                   "laughed, and put the letter into his pocket",
                                                   "sat by the fire and thought of other days",
                                                   "was waiting at the corner of the street",
                                                   "looked up at the dark hills",
                                                   "carried the lamp down to the cellar",
                                                   "had lost the road in the fog",
                                                   "closed the door and listened",
                                                   "could not remember the name of the village",
                                                   "sold the horse at the market",
                                                   "wrote a short note to the lawyer",
                                                   "followed the path through the wood"};
constexpr std::array<std::string_view, 12> kWhen = {
    "That evening",         "In the morning",           "After supper",
    "A week later",         "When it rained",           "Before the clock struck nine",
    "On the following day", "At that moment",           "Towards midnight",
    "In those years",       "By the end of the summer", "Long afterwards"};
constexpr std::array<std::string_view, 12> kTail = {
    "and nobody asked why",
    "for there was nothing else to be done",
    "as if he had expected it all along",
    "but the others did not notice",
    "and the wind was rising from the sea",
    "though the lights of the town were still burning",
    "because the bridge had been carried away",
    "and we heard the bells across the water",
    "while the dogs slept under the table",
    "so that the whole company fell silent",
    "and I was glad of it",
    "which surprised everyone in the room"};
constexpr std::array<std::string_view, 8> kThings = {
    "pass key",      "room number",  "lucky number",    "locker code",
    "ticket number", "house number", "phone extension", "order number"};
constexpr std::array<std::string_view, 12> kNames = {"Alice", "Hugo",  "Maria", "Clara",
                                                     "Peter", "Anna",  "Oscar", "Martha",
                                                     "Emil",  "Laura", "Simon", "Edith"};

template <size_t N>
std::string_view any(const std::array<std::string_view, N>& list, Numbers& numbers) {
  return list[numbers.below(N)];
}

std::string capital(std::string_view text) {
  std::string s(text);
  s[0] = static_cast<char>(s[0] - 'a' + 'A');
  return s;
}

}  // namespace

uint64_t Numbers::next() {
  state_ += 0x9e3779b97f4a7c15;
  uint64_t x = state_;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

std::string filler_sentence(Numbers& numbers) {
  const size_t form = numbers.below(4);
  const std::string_view who = any(kWho, numbers), did = any(kDid, numbers),
                         when = any(kWhen, numbers), tail = any(kTail, numbers);
  switch (form) {
    case 0:
      return fmt::format("{} {} {}, {}.", when, who, did, tail);
    case 1:
      return fmt::format("{} {}, {}.", capital(who), did, tail);
    case 2:
      return fmt::format("{} {} {}.", when, who, did);
    default:
      return fmt::format("{} {}; {}.", capital(who), did, tail);
  }
}

Fact new_fact(Numbers& numbers) {
  const std::string_view thing = any(kThings, numbers), name = any(kNames, numbers);
  Fact f;
  f.number = std::to_string(10000 + numbers.below(90000));
  f.sentence = fmt::format("The {} of {} is {}.", thing, name, f.number);
  f.question = fmt::format("What is the {} of {}?", thing, name);
  return f;
}

std::vector<std::string> sentences_of(const std::string& text) {
  std::vector<std::string> sentences;
  std::string one;
  auto end = [&] {
    if (!one.empty()) sentences.push_back(std::move(one));
    one.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool blank = c == ' ' || c == '\n' || c == '\r' || c == '\t';
    if (!blank) {
      one += c;
      continue;
    }
    if (one.empty() || one.back() == ' ') continue;
    const char last = one.back();
    if (last == '.' || last == '!' || last == '?')
      end();
    else
      one += ' ';
  }
  end();
  return sentences;
}

}  // namespace fathom::eval
