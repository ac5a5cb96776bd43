#include "convert/convert.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>

#include "base/error.h"
#include "base/output_file.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "base/units.h"
#include "convert/copier.h"
#include "convert/disk_space.h"
#include "convert/piece_loop.h"
#include "convert/shard_plan.h"
#include "convert/source.h"
#include "convert/staging.h"
#include "io/checkpoint_folder.h"
#include "model/config.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using std::chrono::steady_clock;

constexpr const char* kConfig = "config.json";
constexpr const char* kManifest = "conversion.json";  // what SAVE was made from
constexpr uint64_t kFinished = UINT64_MAX;            // as Staging::done(): every piece
constexpr int kMaxThreads = 16;                       // more would only queue at the disk

// What else a converted folder needs: the tokenizer, the chat template, the sampling defaults.
std::vector<SourceFile> side_files(const std::string& dir) {
  static const std::regex kWanted(
      R"((generation_config|special_tokens_map|added_tokens)\.json|tokenizer.*|chat_template\..*)");
  std::vector<SourceFile> files;
  for (const auto& entry : fs::directory_iterator(dir)) {
    std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && std::regex_match(name, kWanted))
      files.push_back(stat_source(dir, name));
  }
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return files;
}

class Conversion {
 public:
  using Say = std::function<void(const std::string&)>;
  Conversion(const ConvertOptions& options, const Say& say) : o_(options), say_(say) {}

  ConvertResult run() {
    make_plan();
    if (already_done()) {
      result_.state = ConvertResult::State::already_done;
      return result_;
    }
    if (o_.dry_run) {
      check_space(0);
      return result_;
    }
    check_space(reserved());
    Staging staging(o_.save, manifest_);
    refuse_other_contents(staging);
    begin_ = steady_clock::now();
    if (!all_published(staging)) copy(staging);
    publish(staging);
    result_.state = ConvertResult::State::written;
    result_.seconds = std::chrono::duration<double>(steady_clock::now() - begin_).count();
    return result_;
  }

 private:
  void make_plan() {
    check_options();
    source_ = open_source(o_.source);
    Config config = load_config(o_.source);
    if (o_.experts != config.experts)
      fail("--n-experts is {}, but {} has n_routed_experts {}", o_.experts, o_.source,
           config.experts);
    had_mtp_ = config.mtp_layers > 0;
    if (o_.drop_mtp) config.mtp_layers = 0;
    plan_ = plan_shards(config, source_, o_.ranks);
    for (const auto& rank : plan_.ranks) layouts_.push_back(layout_safetensors(rank));
    sides_ = side_files(o_.source);
    config_file_ = stat_source(o_.source, kConfig);
    write_manifest();
    describe();
  }

  void check_options() {
    if (o_.ranks < 1) fail("--model-parallel is {}, expected at least 1", o_.ranks);
    std::error_code error;
    if (!fs::is_directory(o_.source, error)) fail("no such folder: {}", o_.source);
    if (fs::equivalent(o_.source, o_.save, error))
      fail("--save-path is the source folder itself ({})", o_.save);
    if (fs::exists(o_.save, error) && !fs::is_directory(o_.save, error))
      fail("--save-path {} is a file, expected a folder", o_.save);
  }

  std::string rank_file(int rank) const {
    return fmt::format("model{}-mp{}.safetensors", rank, o_.ranks);
  }
  std::string saved(const std::string& name) const { return (fs::path(o_.save) / name).string(); }

  // Two runs with the same manifest write the same bytes: this is what makes resuming safe.
  void write_manifest() {
    ordered_json m;
    m["model_parallel"] = o_.ranks;
    m["mtp_dropped"] = o_.drop_mtp;
    m["piece_bytes"] = Copier::kPieceBytes;
    auto note = [&](const SourceFile& f) {
      m["source"].push_back({{"file", f.name}, {"bytes", f.bytes}, {"mtime_ns", f.mtime_ns}});
    };
    for (const SourceFile& f : source_.files) note(f);
    for (const SourceFile& f : sides_) note(f);
    note(config_file_);
    for (int r = 0; r < o_.ranks; ++r)
      m["written"].push_back({{"file", rank_file(r)},
                              {"bytes", layouts_[r].file_bytes},
                              {"tensors", plan_.ranks[r].size()}});
    manifest_ = m.dump(1) + "\n";
  }

  void describe() {
    uint64_t from = 0, to = 0;
    for (const SourceFile& f : source_.files) from += f.bytes;
    for (const auto& layout : layouts_) to += layout.file_bytes;
    say_(fmt::format("{}: {} tensors in {} files, {}", o_.source, source_.tensors.size(),
                     source_.files.size(), bytes_text(from)));
    for (int r = 0; r < o_.ranks; ++r)
      say_(fmt::format("  {}: {} tensors, {} ({} bytes)", saved(rank_file(r)),
                       plan_.ranks[r].size(), bytes_text(layouts_[r].file_bytes),
                       layouts_[r].file_bytes));
    if (o_.ranks > 1) say_(fmt::format("  in all {}", bytes_text(to)));
    for (const SourceFile& f : sides_) say_(fmt::format("  {}: copied", saved(f.name)));
    say_(fmt::format("  {}: copied{}", saved(kConfig),
                     o_.drop_mtp && had_mtp_ ? ", with num_nextn_predict_layers 0" : ""));
    const char* why = o_.drop_mtp ? "--drop-mtp"
                      : had_mtp_  ? "copies of the main model's embedding and head"
                                  : "config.json has num_nextn_predict_layers 0";
    if (!plan_.dropped.empty())
      say_(fmt::format("left out: {} tensors of the MTP layer ({})", plan_.dropped.size(), why));
    for (const std::string& name : plan_.unknown)
      say_(fmt::format("left out: {} (no part of this architecture)", name));
  }

  bool whole(int rank) const { return has_layout(saved(rank_file(rank)), layouts_[rank]); }

  bool already_done() {
    if (slurp(saved(kManifest)) != manifest_ || !fs::exists(saved(kConfig))) return false;
    for (int r = 0; r < o_.ranks; ++r) {
      if (whole(r)) continue;
      say_(fmt::format("{} is missing or damaged: converting again", saved(rank_file(r))));
      return false;
    }
    return true;
  }

  // Files of another checkpoint must not be overwritten or mixed with. Files of the same plan are
  // removed first, config.json before all others, and made anew.
  void refuse_other_contents(const Staging& staging) {
    bool ours = staging.resumable() || slurp(saved(kManifest)) == manifest_;
    for (const auto& entry : fs::directory_iterator(o_.save)) {
      std::string name = entry.path().filename().string();
      if (is_hidden(name)) continue;
      bool checkpoint = name == kConfig || name == kManifest ||
                        entry.path().extension() == ".safetensors" ||
                        name.ends_with(".safetensors.index.json");
      if (checkpoint && !ours)
        fail("{} holds another checkpoint ({}): choose another folder, or remove it", o_.save,
             name);
    }
    for (const SourceFile& f : sides_) output_file(saved(f.name));  // else refused after hours
    if (ours) fs::remove(saved(kConfig));
  }

  // Bytes that an earlier run has written, which this one continues or removes.
  uint64_t reserved() const {
    uint64_t bytes = 0;
    for (int r = 0; r < o_.ranks; ++r)
      for (const std::string& path : {Staging::path(o_.save, rank_file(r)), saved(rank_file(r))}) {
        struct stat info {};
        if (stat(path.c_str(), &info) == 0) bytes += static_cast<uint64_t>(info.st_blocks) * 512;
      }
    return bytes;
  }

  void check_space(uint64_t there) const {
    uint64_t needed = 0;
    for (const auto& layout : layouts_) needed += layout.file_bytes;
    for (const SourceFile& f : sides_) needed += f.bytes;
    needed -= std::min(needed, there);
    check_disk_space(o_.save, needed);
  }

  // Whether an earlier run was interrupted while giving the files their final names. All files are
  // complete in that case, some in their place and some still in the staging folder.
  bool all_published(const Staging& staging) const {
    bool finished = staging.resumable() && staging.done() == kFinished;
    if (!finished && slurp(saved(kManifest)) != manifest_) return false;
    int moved = 0;
    for (int r = 0; r < o_.ranks; ++r) {
      bool here = whole(r);
      if (!here && !(finished && has_layout(staging.path(rank_file(r)), layouts_[r]))) return false;
      moved += here;
    }
    return moved > 0;
  }

  void copy(Staging& staging) {
    std::vector<PartFile> parts;
    parts.reserve(static_cast<size_t>(o_.ranks));
    for (int r = 0; r < o_.ranks; ++r) parts.emplace_back(staging.path(rank_file(r)), layouts_[r]);
    int threads = std::clamp(o_.threads > 0 ? o_.threads : usable_processors(), 1, kMaxThreads);
    Copier copier(source_, plan_, parts, threads);
    bool resume = staging.resumable() &&
                  std::all_of(parts.begin(), parts.end(), [](PartFile& p) { return p.reopen(); });
    if (!resume) {
      for (int r = 0; r < o_.ranks; ++r) fs::remove(saved(rank_file(r)));
      for (PartFile& p : parts) p.close_file();
      staging.restart();
      try {
        for (PartFile& p : parts) p.create();
      } catch (...) {
        staging.remove();  // frees the space of a full disk
        throw;
      }
    }
    uint64_t first = std::min(staging.done(), copier.pieces());
    uint64_t total = copier.bytes_before(copier.pieces()), start = copier.bytes_before(first);
    if (first > 0)
      say_(fmt::format("resuming an interrupted run at {} of {}", bytes_text(start),
                       bytes_text(total)));
    // Syncing at intervals keeps the disk busy from the start, and `done` stays true when the
    // machine loses power.
    uint64_t synced = start;
    auto sync_to = [&](uint64_t pieces) {
      for (PartFile& p : parts) p.sync();
      staging.note_done(pieces);
    };
    {
      Progress progress("convert", total, start);
      PieceLoop loop{first, copier.pieces(), threads,
                     [&](uint64_t piece, int thread) { copier.copy(piece, thread); },
                     [&](uint64_t done) {
                       uint64_t bytes = copier.bytes_before(done);
                       progress.update(bytes);
                       if (bytes - synced < o_.sync_bytes) return;
                       sync_to(done);
                       synced = bytes;
                     }};
      run_pieces(loop);
    }
    sync_to(kFinished);
    result_.read_bytes = total - start;
    for (const auto& layout : layouts_) result_.written_bytes += layout.file_bytes;
  }

  // Gives the files their final names, config.json last: without it no program takes the folder for
  // a model.
  void publish(Staging& staging) {
    if (!staging.resumable() && !fs::exists(Staging::path(o_.save, ""))) staging.restart();
    for (int r = 0; r < o_.ranks; ++r)
      if (fs::exists(staging.path(rank_file(r)))) staging.publish(rank_file(r));
    for (const SourceFile& f : sides_) staging.publish_text(f.name, slurp(f.path));
    staging.publish_text(kManifest, manifest_);
    staging.sync_folder();
    staging.publish_text(kConfig, config_text());
    staging.sync_folder();
    staging.remove();
  }

  std::string config_text() const {
    std::string text = slurp(config_file_.path);
    if (!(o_.drop_mtp && had_mtp_)) return text;
    ordered_json config = ordered_json::parse(text);
    config["num_nextn_predict_layers"] = 0;
    return config.dump(2) + "\n";
  }

  const ConvertOptions& o_;
  const Say& say_;
  Source source_;
  ShardPlan plan_;
  std::vector<SafetensorsLayout> layouts_;
  std::vector<SourceFile> sides_;
  SourceFile config_file_;
  std::string manifest_;
  bool had_mtp_ = false;
  steady_clock::time_point begin_;
  ConvertResult result_;
};

}  // namespace

ConvertResult convert(const ConvertOptions& options,
                      const std::function<void(const std::string&)>& say) {
  return Conversion(options, say).run();
}

}  // namespace fathom
