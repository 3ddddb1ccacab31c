# Ruby Que in a process of its own, at the other end of two pipes: a line of stdin is Ruby code as a
# JSON string, and is answered with a line of JSON, ["value", what it came to] or ["error", a text].
# When stdin ends, so do the lockers that were started, and the process.
#
# usage: ruby -I FOLDER_OF_QUE que_process.rb CONNINFO
require 'json'
require 'pg'
require 'que'
require 'timeout'

answers = $stdout.dup
$stdout.reopen($stderr) # for whoever prints something by the way

conninfo = ARGV.fetch(0)
Que.connection_proc = ->(&use) { use.call(Thread.current[:connection] ||= PG.connect(conninfo)) }

# What was run here, in order.
RAN = []
# One thing in it ends one Wait.
GO = Queue.new

class Note < Que::Job
  def run(*args, **kwargs)
    RAN << {
      **que_attrs.slice(:id, :queue, :priority, :error_count),
      type: self.class.name, tags: que_attrs[:data][:tags] || [], args: args, kwargs: kwargs
    }
  end
end

class Greet < Que::Job
  self.retry_interval = 0

  def run(name, greeting:, mark: '.')
    RAN << "#{greeting}, #{name}#{mark}"
  end
end

class Keep < Note
  def run(...)
    super
    finish
  end
end

class Abandon < Note
  def run(...)
    super
    expire
  end
end

class Fail < Note
  self.retry_interval = 0

  def run(...)
    super
    raise ArgumentError, 'no luck'
  end
end

class FailForGood < Fail
  self.maximum_retry_count = 0
end

class Wait < Note
  def run(...)
    super
    GO.pop
  end
end

# As the adapter of ActiveJob names it; Rails itself isn't needed to enqueue one.
module ActiveJob
  module QueueAdapters
    class QueAdapter
      class JobWrapper < Que::Job
      end
    end
  end
end

LOCKERS = []

# Returns when it is registered. It listens, and polls only if it is told how often.
def start(*queues, poll: nil, listen: true, priorities: [nil, nil])
  LOCKERS << Que::Locker.new(
    queues: queues, listen: listen, poll: !poll.nil?, poll_interval: poll || 1, worker_priorities: priorities,
    wait_period: 10
  )
  registered = "SELECT count(*) AS count FROM que_lockers WHERE ruby_pid = #{Process.pid}"
  sleep 0.005 until Que.execute(registered).first[:count] == LOCKERS.size
end

def answer(code)
  ['value', Timeout.timeout(10) { eval(code, TOPLEVEL_BINDING, 'the test') }]
rescue StandardError, ScriptError => e
  ['error', "#{e.class}: #{e.message}"]
end

$stdin.each_line do |line|
  answers.puts(JSON.generate(answer(JSON.parse(line))))
  answers.flush
end
GO.close
LOCKERS.each(&:stop!)
