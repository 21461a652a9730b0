# fish completion of flyball. Save it as ~/.config/fish/completions/flyball.fish, or put into config.fish:
#   flyball completion fish | source

function __flyball_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    test -n "$word"; or set word ''
    set -l before ''
    set -l value $word
    if string match -qr -- '^-[^=]*=' $word
        set before (string replace -r -- '=.*$' '=' $word)
        set value (string replace -r -- '^-[^=]*=' '' $word)
    end
    for line in ($words[1] complete $words[2..-1] $word 2>/dev/null)
        switch $line
            case ':files'
                for path in (__fish_complete_path $value)
                    echo $before$path
                end
            case ':directories'
                for path in (__fish_complete_directories $value '')
                    echo $before$path
                end
            case '*'
                echo $line
        end
    end
end

complete -c flyball -e
complete -c flyball -f -a '(__flyball_complete)'
