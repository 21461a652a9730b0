# bash completion of flyball. Put it where bash-completion looks, or into ~/.bashrc:
#   source <(flyball completion bash)

_flyball() {
	local line=${COMP_LINE:0:COMP_POINT} words word candidate
	# Bash splits words at = and :, so the line is split anew, at blanks.
	read -ra words <<<"$line"
	[[ $line == *[[:blank:]] ]] && words+=("")
	word=${words[${#words[@]}-1]}
	# What stands before the part that bash is about to replace.
	local part=$word
	[[ $COMP_WORDBREAKS == *=* && $part == *=* ]] && part=${part#*=}
	[[ $COMP_WORDBREAKS == *:* && $part == *:* ]] && part=${part##*:}
	local before=${word%"$part"}
	COMPREPLY=()
	while IFS=$'\t' read -r candidate _; do
		case $candidate in
		:files | :directories)
			local value=$word action=file
			[[ $value == -*=* ]] && value=${value#*=}
			[[ $candidate == :directories ]] && action=directory
			compopt -o filenames 2>/dev/null
			while IFS= read -r candidate; do COMPREPLY+=("$candidate"); done < <(compgen -A "$action" -- "$value")
			;;
		*)
			COMPREPLY+=("${candidate#"$before"}")
			;;
		esac
	done < <("${words[0]/#\~/$HOME}" complete "${words[@]:1}" 2>/dev/null)
}

complete -F _flyball flyball
