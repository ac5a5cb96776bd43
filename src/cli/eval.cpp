// fathom eval: how good the model is on texts and questions of the user's own, and whether a way to
// compute it (sparse attention, a number format, a device) costs any of that.
#include "base/error.h"
#include "cli/command.h"
#include "cli/eval_run.h"
#include "cli/eval_tasks.h"
#include "eval/needles.h"

namespace fathom::cli {
namespace {

void add_perplexity(CLI::App& eval) {
  struct Command {
    EvalRunOptions run;
    PerplexityFlags perplexity;
    std::vector<std::string> texts;
  };
  auto o = std::make_shared<Command>();
  CLI::App* c = eval.add_subcommand("perplexity",
                                    "how well the model predicts texts: nats a token, bits a byte");
  c->add_option("--text", o->texts, "text files")->required()->type_name("FILE...");
  o->perplexity.add_to(*c);
  o->run.add_to(*c);
  on_run(*c, [o] {
    return run_eval(o->run, [o](const TaskSource& s) {
      Tasks tasks;
      tasks.push_back(perplexity_task("perplexity", o->texts, o->perplexity, s));
      return tasks;
    });
  });
}

std::string needle_map(const eval::Report& report) {
  std::vector<std::pair<std::string, eval::Json>> variants;
  for (const eval::TaskReport& t : report.tasks)
    for (const eval::Row& r : t.rows) variants.emplace_back(r.variant, r.extra);
  return eval::needles_svg(variants);
}

void add_needles(CLI::App& eval) {
  struct Command {
    EvalRunOptions run;
    NeedleFlags needles;
  };
  auto o = std::make_shared<Command>();
  CLI::App* c = eval.add_subcommand(
      "needles",
      "facts planted in long texts: recall by length and depth, and what the indexer "
      "picked of them");
  o->needles.add_to(*c);
  o->run.add_to(*c);
  o->run.add_svg(*c, "draw recall by length and depth to this file");
  on_run(*c, [o] {
    return run_eval(
        o->run,
        [o](const TaskSource& s) {
          Tasks tasks;
          tasks.push_back(needles_task(o->needles, o->run.seed, s));
          return tasks;
        },
        needle_map);
  });
}

// `choice` and `answer`: a file of items each.
void add_items(CLI::App& eval, const std::string& kind, const std::string& what) {
  struct Command {
    EvalRunOptions run;
    ItemFlags items;
    std::vector<std::string> files;
  };
  auto o = std::make_shared<Command>();
  CLI::App* c = eval.add_subcommand(kind, what);
  c->add_option("--file", o->files, "JSON Lines, an item a line, or one JSON array")
      ->required()
      ->type_name("FILE...");
  o->items.add_to(*c, kind);
  o->run.add_to(*c);
  on_run(*c, [o, kind] {
    return run_eval(o->run, [o, kind](const TaskSource& s) {
      Tasks tasks;
      for (const std::string& path : o->files)
        tasks.push_back(items_task(path, kind, o->items.settings, o->run.seed, s));
      return tasks;
    });
  });
}

void add_parity(CLI::App& eval) {
  struct Command {
    EvalRunOptions run;
    ParityFlags parity;
  };
  auto o = std::make_shared<Command>();
  o->run.variants.attention = {"sparse", "dense"};
  CLI::App* c = eval.add_subcommand(
      "parity",
      "several tasks, two ways to compute, item by item: what the one costs against the "
      "other");
  o->parity.add_to(*c);
  o->run.add_to(*c);
  o->run.add_svg(*c, "draw the differences and their intervals to this file");
  on_run(*c, [o] {
    // If another list of two is given, it replaces the comparison of sparse with dense.
    VariantOptions& v = o->run.variants;
    if (v.attention.size() > 1 && v.several_besides_attention()) v.attention = {"sparse"};
    if (o->parity.tasks.empty()) o->parity.tasks = tasks_of_folder(v.folders.front());
    return run_eval(
        o->run, [o](const TaskSource& s) { return parity_tasks(o->parity, o->run.seed, s); },
        eval::parity_svg);
  });
}

}  // namespace

void add_eval(CLI::App& app) {
  CLI::App* c = app.add_subcommand("eval", "measure quality on your own texts and questions");
  c->require_subcommand(1);
  add_perplexity(*c);
  add_needles(*c);
  add_items(*c, "choice", "questions with choices: accuracy by log-probability or by answer");
  add_items(*c, "answer", "prompts with expected answers: accuracy, pass@k");
  add_parity(*c);
}

}  // namespace fathom::cli
