// Tokenizer: text survives encoding and decoding, and no user's text becomes a control token.
#include <string>

#include "selfcheck/checks.h"
#include "text/utf8.h"

namespace fathom {
namespace {

constexpr std::string_view kSamples[] = {
    "The quick brown fox, 3.14159 and 1,000,000 others; isn't it?",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "深度求索：混合专家模型。我能吞下玻璃而不伤身体。１２３４",
    "いろはにほへと ちりぬるを、カタカナも。",
    "다람쥐 헌 쳇바퀴에 타고파",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇪🇺 ❤️‍🔥 e\u0301 = é",
    "\u200bzero\u200dwidth",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];  // dot\r\n}\n\n\n",
    "  leading, trailing and   inner    blanks   ",
    "\t\n \r\n\v\f\u00a0\u3000",
    std::string_view("a\0b\x01\x7f", 5),
};

// Any code points there are, surrogates apart.
std::string random_text(TestValues& random) {
  std::string text;
  for (uint64_t n = 1 + random.below(60); n > 0; --n) {
    constexpr uint32_t kLimits[] = {0x80, 0x800, 0x3000, 0x10000, 0x110000};
    uint32_t code = static_cast<uint32_t>(random.below(kLimits[random.below(5)]));
    if (code < 0xD800 || code > 0xDFFF) append_utf8(text, code);
  }
  return text;
}

}  // namespace

std::string_view selfcheck_text() {
  return "The lighthouse keeper kept two books. In the first he wrote what he saw: ships, weather, "
         "the colour of the water, the hour when the gulls came in. In the second he wrote what he "
         "expected to see on the following day, and every evening he compared the two. For some "
         "years the second book was better than the first, because he left out what did not fit. "
         "Then one winter a storm took the lamp, and for nine nights he stood at the window with "
         "a lantern and counted the ships that passed: 4, 11, 7, 0, 2, 9, 9, 13, 6. None of them "
         "was in the book. He bought a third one. On its first page he wrote the rule that he "
         "kept from then on: write down the measure before the measurement, and the measurement "
         "before the explanation. Visitors asked what the books were for. He said that a light "
         "which is only believed to be burning is of no use to anybody at sea, and that the same "
         "was true of most things he had been told. Some of them laughed; one, a young engineer, "
         "went home and wrote a program that checked itself before it did anything else.\n\n";
}

void check_tokenizer(CheckContext& c) {
  const char *samples_words = "ids of text in many scripts decode to the same text",
             *random_words = "ids of random Unicode decode to the same text",
             *control_words = "control tokens in a user's text stay text";
  if (!c.tokenizer) {
    for (auto [id, words] : {std::pair{"samples", samples_words},
                             {"random", random_words},
                             {"control", control_words}})
      c.skip(fmt::format("text.{}", id), words, "no tokenizer in the folder");
    return;
  }
  const Tokenizer& t = *c.tokenizer;
  auto survives = [&](std::string_view text) { return t.decode(t.encode_plain(text)) == text; };
  int64_t count = 0, wrong = 0;
  for (std::string_view text : kSamples) ++count, wrong += !survives(text);
  wrong += !survives(selfcheck_text());
  c.add("text.samples", samples_words, fmt::format("{} of {} changed", wrong, count + 1), "0",
        wrong == 0);

  TestValues random(11);
  for (count = wrong = 0; count < 500; ++count) wrong += !survives(random_text(random));
  c.add("text.random", random_words, fmt::format("{} of {} changed", wrong, count), "0",
        wrong == 0);

  count = wrong = 0;
  for (int32_t id = 0; id < t.vocab_size(); ++id) {
    if (!t.is_special(id)) continue;
    std::string text = fmt::format("say {}, please", t.token_bytes(id));
    bool clean = survives(text);
    for (int32_t other : t.encode_plain(text)) clean = clean && !t.is_special(other);
    ++count;
    wrong += !clean;
  }
  c.add("text.control", control_words, fmt::format("{} of {} became control", wrong, count), "0",
        wrong == 0);
}

}  // namespace fathom
