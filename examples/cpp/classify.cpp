/// Classify pictures with a bundle: PPM files, or raw frames such as a camera's.
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <limits>
#include <locale>
#include <new>
#include <rrr_edge/classifier.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace {

using rrr_edge::BadInput;
using rrr_edge::UsageError;

constexpr const char* kUsage = R"(usage: classify BUNDLE [OPTION...] PHOTO...

PHOTO is a PPM file (binary, 8 bits a channel). With --raw it holds any number of frames of RGB bytes,
one after the other, and - is the standard input.

  --target NAME       the engine's target (openvino)
  --precision P       fp32, bf16, fp16 or int8 (int8)
  --threads N         cores to compute on (the target's number, or all usable ones; never more than these)
  --roi X,Y,W,H       the part of each frame to look at, in shares of its sides
  --raw WIDTHxHEIGHT  raw frames of this size
  --json              one JSON document a line, with all probabilities and the milliseconds that `predict` took
  --help              this text
)";
constexpr std::int64_t kMostPixels = 100'000'000;

struct Arguments {
  std::string bundle;
  rrr_edge::Options options;
  int raw_width = 0, raw_height = 0;
  bool as_json = false, help = false;
  std::vector<std::string> photos;
};

struct Picture {
  std::vector<std::uint8_t> pixels;
  int width = 0, height = 0;
};

int whole_number(const std::string& text, const std::string& what) {
  if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != std::string::npos) {
    throw UsageError(what + " is not a whole number: '" + text + "'.", kUsage);
  }
  return std::stoi(text);
}

/// Four numbers between commas.
rrr_edge::Region region(const std::string& text) {
  std::istringstream words(text);
  words.imbue(std::locale::classic());
  double x, y, width, height;
  char commas[3] = {};
  words >> x >> commas[0] >> y >> commas[1] >> width >> commas[2] >> height;
  if (!words || words.peek() != std::istringstream::traits_type::eof() || std::string(commas, 3) != ",,,") {
    throw UsageError("--roi takes four numbers such as 0.25,0.25,0.5,0.5, not '" + text + "'.", kUsage);
  }
  return {x, y, width, height};
}

Arguments read_arguments(const std::vector<std::string>& words) {
  Arguments found;
  std::vector<std::string> plain;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const auto value = [&] {
      if (++i == words.size()) throw UsageError(word + " needs a value.", kUsage);
      return words[i];
    };
    if (word == "--target") {
      found.options.target = value();
    } else if (word == "--precision") {
      found.options.precision = value();
    } else if (word == "--threads") {
      found.options.threads = whole_number(value(), "--threads");
    } else if (word == "--roi") {
      found.options.roi = region(value());
    } else if (word == "--raw") {
      const std::string size = value();
      const std::size_t cross = std::min(size.find('x'), size.size());
      found.raw_width = whole_number(size.substr(0, cross), "The width in --raw");
      found.raw_height = whole_number(size.substr(std::min(cross + 1, size.size())), "The height in --raw");
      if (!found.raw_width || !found.raw_height) throw UsageError("A raw frame has at least one pixel.", kUsage);
    } else if (word == "--json") {
      found.as_json = true;
    } else if (word == "--help" || word == "-h") {
      found.help = true;
    } else if (word.size() > 1 && word[0] == '-') {
      throw UsageError("There is no option " + word + ".", kUsage);
    } else {
      plain.push_back(word);
    }
  }
  if (found.help) return found;
  if (plain.size() < 2) throw UsageError("A bundle and a photo are needed.", kUsage);
  found.bundle = plain.front();
  found.photos.assign(plain.begin() + 1, plain.end());
  return found;
}

/// The next number in the header of a PPM file, after white space and comments; -1 where there is none.
int header_number(std::istream& file) {
  while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  int number;
  return file >> number ? number : -1;
}

/// Read `picture.pixels`; false where the file has ended, BadInput where it ends within a frame.
bool read_pixels(std::istream& file, const std::string& name, Picture& picture) {
  const std::size_t bytes = std::size_t{3} * picture.width * picture.height;
  picture.pixels.resize(bytes);
  file.read(reinterpret_cast<char*>(picture.pixels.data()), static_cast<std::streamsize>(bytes));
  const auto found = static_cast<std::size_t>(file.gcount());
  if (found != 0 && found != bytes) {
    throw BadInput(name + " ends after " + std::to_string(found) + " of a frame's " + std::to_string(bytes) + " bytes.",
                   "Write it again.");
  }
  return found == bytes;
}

Picture read_ppm(std::istream& file, const std::string& name) {
  char magic[2] = {};
  file.read(magic, 2);
  if (magic[0] != 'P' || magic[1] != '6') {
    throw BadInput(name + " is not a binary PPM file.", "Convert it, or give raw frames with --raw WIDTHxHEIGHT.");
  }
  Picture picture;
  picture.width = header_number(file);
  picture.height = header_number(file);
  const int brightest = header_number(file);
  file.get();
  if (picture.width < 1 || picture.height < 1 || std::int64_t{picture.width} * picture.height > kMostPixels ||
      brightest != 255) {
    throw BadInput(name + " is not a PPM file of 1 to 100 million pixels with 8 bits a channel.", "Convert it.");
  }
  if (!read_pixels(file, name, picture)) throw BadInput(name + " has no pixels.", "Write it again.");
  return picture;
}

void answer(rrr_edge::Classifier& classifier, const Picture& picture, const std::string& name, bool as_json) {
  const auto begin = std::chrono::steady_clock::now();
  const rrr_edge::Prediction found = classifier.predict({picture.pixels.data(), picture.width, picture.height});
  const std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - begin;
  if (as_json) {
    const nlohmann::ordered_json document = {{"image", name},
                                             {"label", found.label},
                                             {"index", found.index},
                                             {"probability", found.probability},
                                             {"uncertainty", found.uncertainty},
                                             {"answered", found.answered},
                                             {"confidence", found.confidence},
                                             {"candidates", found.candidates},
                                             {"measures", found.measures},
                                             {"probabilities", found.probabilities},
                                             {"branch_probabilities", found.branch_probabilities},
                                             {"threads", classifier.threads()},
                                             {"ms", ms.count()}};
    std::cout << document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
  } else {
    std::cout << (found.answered ? found.label : "unsure") << "  " << std::fixed << std::setprecision(1)
              << 100 * found.probability << "%  uncertainty " << std::setprecision(2) << found.uncertainty << "  "
              << name << std::endl;
  }
}

void classify(const Arguments& arguments) {
  rrr_edge::Classifier classifier(arguments.bundle, arguments.options);
  for (const std::string& name : arguments.photos) {
    std::ifstream opened;
    if (name != "-" || !arguments.raw_width) {
      opened.open(name, std::ios::binary);
      std::error_code unknown;
      if (!opened || std::filesystem::is_directory(name, unknown)) {
        throw BadInput(name + " cannot be opened.", "Give a file.");
      }
    }
    std::istream& file = opened.is_open() ? opened : std::cin;
    if (arguments.raw_width) {
      Picture picture{{}, arguments.raw_width, arguments.raw_height};
      while (read_pixels(file, name, picture)) answer(classifier, picture, name, arguments.as_json);
    } else {
      answer(classifier, read_ppm(file, name), name, arguments.as_json);
    }
  }
}

}  // namespace

int main(int count, char** words) {
  std::ios::sync_with_stdio(false);
  try {
    const Arguments arguments = read_arguments({words + 1, words + count});
    if (arguments.help) {
      std::cout << kUsage;
    } else {
      classify(arguments);
    }
  } catch (const rrr_edge::Error& error) {
    std::cerr << error.what() << ' ' << error.advice << '\n';
    return error.exit_code;
  } catch (const std::bad_alloc&) {
    std::cerr << "There is not enough memory for this. Stop other programs, or use smaller pictures.\n";
    return 4;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
